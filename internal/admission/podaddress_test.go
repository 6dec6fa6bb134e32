package admission

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/pool"
)

const (
	ens5 = "addresses.ipam.spidernet.io/kube-system.ens5"
	ens6 = "addresses.ipam.spidernet.io/kube-system.ens6"
)

// offering returns a cache with a node that offers ens5, one that offers ens6, and two namespaces.
func offering(t *testing.T) client.WithWatch {
	t.Helper()
	node := func(name string, resources ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Allocatable = corev1.ResourceList{}
		for _, r := range resources {
			n.Status.Allocatable[corev1.ResourceName(r)] = resource.MustParse("0") // full, and still offered
		}
		return n
	}
	return cacheOf(t, node("a", "cpu", ens5), node("b", ens6), node("c"),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "own", Annotations: map[string]string{"ipam.spidernet.io/default-ipv4-ippool": `["blue"]`}}})
}

func TestPodsRequestTheirAddresses(t *testing.T) {
	const first, further = "v1.multus-cni.io/default-network", "k8s.v1.cni.cncf.io/networks"
	cluster := pool.ClusterNetwork{Default: pool.NetworkAttachment{Namespace: "kube-system", Name: "ens5"}}
	for name, test := range map[string]struct {
		namespace   string
		annotations map[string]string
		cluster     pool.ClusterNetwork
		change      func(*corev1.Pod)
		want        map[string]string
	}{
		"default network":    {"shop", nil, cluster, nil, map[string]string{ens5: "1"}},
		"no default network": {"shop", nil, pool.ClusterNetwork{}, nil, nil},
		"by annotation":      {"shop", map[string]string{first: "kube-system/ens6"}, cluster, nil, map[string]string{ens6: "1"}},
		"two interfaces":     {"shop", map[string]string{further: "kube-system/ens6,other"}, cluster, nil, map[string]string{ens5: "1", ens6: "1"}},
		"one network twice":  {"shop", map[string]string{further: "kube-system/ens5"}, cluster, nil, map[string]string{ens5: "2"}},
		"offered by no node": {"shop", map[string]string{first: "kube-system/ens7"}, cluster, nil, nil},
		"network of node":    {"shop", nil, cluster, func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil},
		"own pool":           {"shop", map[string]string{"ipam.spidernet.io/ippool": `{"ipv4":["blue"]}`}, cluster, nil, nil},
		"own pools":          {"shop", map[string]string{"ipam.spidernet.io/ippools": `[{"ipv4":["blue"]}]`}, cluster, nil, nil},
		"pools of namespace": {"own", nil, cluster, nil, nil},
		"unknown namespace":  {"new", nil, cluster, nil, nil},
		"invalid annotation": {"shop", map[string]string{further: "["}, cluster, nil, nil},
		"no container":       {"shop", nil, cluster, func(p *corev1.Pod) { p.Spec.Containers = nil }, nil},
		"own request": {"shop", nil, cluster, func(p *corev1.Pod) {
			addResources(p, map[corev1.ResourceName]int64{ens5: 3})
		}, map[string]string{ens5: "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: test.namespace, Annotations: test.annotations}}
			pod.Spec.Containers = []corev1.Container{{Name: "first"}, {Name: "second"}}
			if test.change != nil {
				test.change(pod)
			}
			w := &podAddresses{reader: offering(t), cluster: test.cluster, log: slog.New(slog.DiscardHandler)}
			for range 2 { // the API server may call it again
				if err := w.Default(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
			}
			var want corev1.ResourceRequirements
			if test.want != nil {
				want = corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
				for name, text := range test.want {
					want.Requests[corev1.ResourceName(name)], want.Limits[corev1.ResourceName(name)] = resource.MustParse(text), resource.MustParse(text)
				}
			}
			for i, c := range pod.Spec.Containers {
				if diff := cmp.Diff(want, c.Resources); diff != "" {
					t.Errorf("resources of container %d (-want +got):\n%s", i, diff)
				}
				want = corev1.ResourceRequirements{}
			}
		})
	}
}

func TestUnreadableCacheRefusesNoPod(t *testing.T) {
	cluster := pool.ClusterNetwork{Default: pool.NetworkAttachment{Namespace: "kube-system", Name: "ens5"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Status.Allocatable = corev1.ResourceList{ens5: resource.MustParse("1")}
	for name, reader := range map[string]client.Reader{
		"nodes": unreadable(t, &corev1.NodeList{}), "namespaces": unreadable(t, &metav1.PartialObjectMetadata{}, node),
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
		w := &podAddresses{reader: reader, cluster: cluster, log: slog.New(slog.DiscardHandler)}
		if err := w.Default(t.Context(), pod); err != nil || pod.Spec.Containers[0].Resources.Requests != nil {
			t.Errorf("%s: %v, resources %v", name, err, pod.Spec.Containers[0].Resources)
		}
	}
}
