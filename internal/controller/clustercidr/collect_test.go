//go:build apiserver

package clustercidr

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// beforeServiceCIDRs is a reconciler in a cluster of before Kubernetes 1.33,
// which has no ServiceCIDRs. It reads from the API server, not from caches.
func beforeServiceCIDRs(t *testing.T) *Reconciler {
	t.Helper()
	scheme := scheme.New()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(kubetest.Config(t), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	c = interceptor.NewClient(c, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if _, is := list.(*networkingv1.ServiceCIDRList); is {
			return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: networkingv1.GroupName, Kind: "ServiceCIDR"}}
		}
		return c.List(ctx, list, options...)
	}})
	return &Reconciler{
		client: c, live: c, mapper: c.RESTMapper(), kubeadmConfig: c, ciliumConfig: c,
		ciliumConfigMap: client.ObjectKey{Namespace: systemNamespace, Name: "cilium-config"},
		watched:         map[schema.GroupVersionKind]bool{calicoPool: true, ciliumPool: true},
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: name}, Data: data}
}

// overlay installs the kind of an overlay network's pools and makes one pool.
func overlay(t *testing.T, c client.Client, kind schema.GroupVersionKind, plural string, spec map[string]any) {
	t.Helper()
	kubetest.Create(t, c, kubetest.Definition(kind, plural))
	pool := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "pool"}, "spec": spec}}
	pool.SetGroupVersionKind(kind)
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, pool.DeepCopy()) })
}

// check compares the decision about the collected facts.
func check(t *testing.T, r *Reconciler, kind v2beta1.PodCIDRType, pods, services []string) {
	t.Helper()
	got := decide(kind, r.collect(t.Context()))
	if !slices.Equal(got.overlayPodCIDR, pods) || !slices.Equal(got.serviceCIDR, services) {
		t.Errorf("got %+v\nwant pods %v, services %v", got, pods, services)
	}
}

func TestNetworksOfKubeadm(t *testing.T) {
	r := beforeServiceCIDRs(t)
	r.watched = nil
	r.mapper = noOverlays{}
	kubetest.Create(t, r.client, configMap(kubeadmConfigMap, map[string]string{
		"ClusterConfiguration": "networking: {podSubnet: 10.244.0.0/16, serviceSubnet: \"10.97.0.0/16, fd00:97::/112\"}",
	}))
	check(t, r, v2beta1.PodCIDRCluster, []string{"10.244.0.0/16"}, []string{"10.97.0.0/16", "fd00:97::/112"})
}

func TestNetworksOfStaticPods(t *testing.T) {
	r := beforeServiceCIDRs(t)
	r.watched = nil
	r.mapper = noOverlays{}
	for component, words := range map[string][]string{
		"kube-apiserver":          {"kube-apiserver", "--v=2", "--service-cluster-ip-range=10.98.0.0/16"},
		"kube-controller-manager": {"kube-controller-manager", "--cluster-cidr=10.245.0.0/16,fd00:245::/56"},
	} {
		kubetest.Create(t, r.client, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: component, Labels: map[string]string{"component": component}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Command: words[:1], Args: words[1:]}}},
		})
	}
	check(t, r, v2beta1.PodCIDRCluster, []string{"10.245.0.0/16", "fd00:245::/56"}, []string{"10.98.0.0/16"})
}

func TestNetworksOfOverlays(t *testing.T) {
	r := beforeServiceCIDRs(t)
	services := []string{"10.97.0.0/16"}
	kubetest.Create(t, r.client,
		configMap(kubeadmConfigMap, map[string]string{"ClusterConfiguration": "networking: {serviceSubnet: 10.97.0.0/16}"}),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.246.1.0/24", PodCIDRs: []string{"10.246.1.0/24"}}})
	overlay(t, r.client, ciliumPool, "ciliumpodippools", map[string]any{
		"ipv4": map[string]any{"cidrs": []any{"10.20.0.0/16"}}, "ipv6": map[string]any{"cidrs": []any{"fd00:20::/104"}},
	})
	overlay(t, r.client, calicoPool, "ippools", map[string]any{"cidr": "192.168.0.0/16", "disabled": true})

	cilium := configMap("cilium-config", map[string]string{"ipam": "kubernetes"})
	kubetest.Create(t, r.client, cilium)
	check(t, r, v2beta1.PodCIDRCilium, []string{"10.246.1.0/24"}, services)

	cilium.Data["ipam"] = "multi-pool"
	if err := r.client.Update(t.Context(), cilium); err != nil {
		t.Fatal(err)
	}
	check(t, r, v2beta1.PodCIDRAuto, []string{"10.20.0.0/16", "fd00:20::/104"}, services)

	got := decide(v2beta1.PodCIDRCalico, r.collect(t.Context()))
	if want := "spec.podCIDRType is calico, but this source has no network: IPPools of Calico"; !strings.Contains(got.missing, want) {
		t.Errorf("missing %q, want %q", got.missing, want)
	}
}

func TestFailedDiscoveryIsReported(t *testing.T) {
	r := beforeServiceCIDRs(t)
	r.watched = nil
	r.mapper = noOverlays{err: errors.New("the aggregated API is away")}
	got := decide(v2beta1.PodCIDRAuto, r.collect(t.Context()))
	want := "overlayPodCIDR: IPPools of Calico cannot be read: look up the kind IPPool.crd.projectcalico.org: the aggregated API is away"
	if !strings.Contains(got.missing, want) || got.err == nil {
		t.Errorf("missing %q, to try again for %v; want %q", got.missing, got.err, want)
	}
}

func TestDefinedKindIsAwaited(t *testing.T) {
	r := beforeServiceCIDRs(t)
	overlay(t, r.client, calicoPool, "ippools", map[string]any{"cidr": "192.168.0.0/16"})
	r.watched = nil
	r.mapper = noOverlays{} // the API server serves a new kind some time after its definition
	got := decide(v2beta1.PodCIDRCalico, r.collect(t.Context()))
	want := "CustomResourceDefinition ippools.crd.projectcalico.org exists, but the API server does not serve crd.projectcalico.org/v1 IPPool; trying again"
	if !strings.Contains(got.missing, want) || got.err == nil {
		t.Errorf("missing %q, to try again for %v; want %q", got.missing, got.err, want)
	}
}

// noOverlays knows no kind, or cannot tell.
type noOverlays struct {
	meta.RESTMapper
	err error
}

func (m noOverlays) RESTMapping(kind schema.GroupKind, _ ...string) (*meta.RESTMapping, error) {
	if m.err != nil {
		return nil, m.err
	}
	return nil, &meta.NoKindMatchError{GroupKind: kind}
}
