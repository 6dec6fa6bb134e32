package controller

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

func podOfSet(name, set string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, Labels: map[string]string{"app": set}, OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: set, UID: types.UID(set)}},
			Annotations: map[string]string{names.AnnotationMultusNetworks: "kube-system/" + set, names.AnnotationMultusNetworkStatus: "[]", "checksum": "x"},
		},
		Spec: corev1.PodSpec{NodeName: "worker1", Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
	}
}

func stripAll(t *testing.T, s *podStripper, pods ...*corev1.Pod) (all []*corev1.Pod) {
	t.Helper()
	for _, pod := range pods {
		stripped, err := s.strip(pod)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stripped.(*corev1.Pod))
	}
	return all
}

func TestPodsOfSetShareParts(t *testing.T) {
	relabeled, moved := podOfSet("web-3", "web"), podOfSet("web-4", "web")
	relabeled.Labels["debug"] = "true"
	moved.Annotations[names.AnnotationMultusNetworks] = "kube-system/other"
	got := stripAll(t, &podStripper{}, podOfSet("web-1", "web"), podOfSet("web-2", "web"), relabeled, moved)
	first, second := got[0], got[1]
	if reflect.ValueOf(first.Labels).Pointer() != reflect.ValueOf(second.Labels).Pointer() ||
		reflect.ValueOf(first.Annotations).Pointer() != reflect.ValueOf(second.Annotations).Pointer() ||
		&first.OwnerReferences[0] != &second.OwnerReferences[0] || &first.Spec.Containers[0] != &second.Spec.Containers[0] {
		t.Error("two pods of a set have parts of their own")
	}
	for i, want := range []struct{ labels, network string }{{"map[app:web]", "web"}, {"map[app:web]", "web"}, {"map[app:web debug:true]", "web"}, {"map[app:web]", "other"}} {
		if labels := fmt.Sprint(got[i].Labels); labels != want.labels {
			t.Errorf("pod %s has labels %s, want %s", got[i].Name, labels, want.labels)
		}
		if annotations := (map[string]string{names.AnnotationMultusNetworks: "kube-system/" + want.network}); !maps.Equal(got[i].Annotations, annotations) {
			t.Errorf("pod %s has annotations %v, want %v", got[i].Name, got[i].Annotations, annotations)
		}
	}
}

// 20,000 sets share 16,384 places.
func TestManySetsKeepTheirParts(t *testing.T) {
	var s podStripper
	for i := range 20_000 {
		set := fmt.Sprint("set-", i)
		if got := stripAll(t, &s, podOfSet("p", set))[0]; got.Labels["app"] != set || got.OwnerReferences[0].Name != set {
			t.Fatalf("a pod of %s has labels %v and owner %s", set, got.Labels, got.OwnerReferences[0].Name)
		}
	}
}

// A reflector strips the pods of its first list twice.
func TestStrippedPodStays(t *testing.T) {
	var s podStripper
	portless := podOfSet("web-2", "web")
	portless.Spec.Containers[0].Ports = nil
	once := stripAll(t, &s, podOfSet("web-1", "web"), portless)
	for i, twice := range stripAll(t, &s, once...) {
		if twice != once[i] {
			t.Errorf("%s was copied again", twice.Name)
		}
	}
}

func endpointOn(node, name, v4 string) *v2beta1.SpiderEndpoint {
	return &v2beta1.SpiderEndpoint{
		TypeMeta:   metav1.TypeMeta{Kind: "SpiderEndpoint", APIVersion: v2beta1.GroupVersion.String()},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Status: v2beta1.SpiderEndpointStatus{OwnerControllerType: "Pod", OwnerControllerName: name, Current: v2beta1.EndpointAllocation{
			UID: name, Node: node, IPs: append(make([]v2beta1.EndpointIP, 0, 4), v2beta1.EndpointIP{
				Interface: "eth0", IPv4: &v4, IPv4Pool: new("pool-" + node), IPv4Gateway: new("10.0.0.1"), Vlan: new(int64(0)), CleanGateway: new(node == "b"),
				Routes: []v2beta1.Route{{Dst: "10.1.0.0/16", Gw: "10.0.0.2"}},
			}),
		}},
	}
}

func TestEndpointsOfNodeShareParts(t *testing.T) {
	var s endpointSharer
	var all []*v2beta1.SpiderEndpoint
	for _, e := range []*v2beta1.SpiderEndpoint{endpointOn("a", "web-1", "10.0.0.5/24"), endpointOn("b", "web-2", "10.0.0.6/24"), endpointOn("a", "web-3", "10.0.0.7/24")} {
		want := e.DeepCopy()
		for range 2 {
			got, err := s.share(e)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("endpoint %s changed (-want +got):\n%s", e.Name, diff)
			}
			e = got.(*v2beta1.SpiderEndpoint)
		}
		all = append(all, e)
	}
	first, other, second := &all[0].Status.Current.IPs[0], &all[1].Status.Current.IPs[0], &all[2].Status.Current.IPs[0]
	if first.IPv4Pool != second.IPv4Pool || first.IPv4Gateway != second.IPv4Gateway || first.Vlan != second.Vlan || &first.Routes[0] != &second.Routes[0] {
		t.Error("two endpoints of a node have parts of their own")
	}
	if first.IPv4 == second.IPv4 || first.IPv4Pool == other.IPv4Pool {
		t.Error("endpoints share parts that differ")
	}
	if room := cap(all[0].Status.Current.IPs); room != 1 {
		t.Errorf("one interface has room for %d", room)
	}
}

func TestSharedBlockKeepsContent(t *testing.T) {
	block := blockWith(v2beta1.Lease{IP: "10.0.0.1", State: v2beta1.LeaseInUse, Pool: "pool-1", Pod: "shop/web-0", PodUID: "1", ContainerID: "c", Interface: "eth0", Node: "a"})
	want := block.DeepCopy()
	block.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "agent"}}
	got, err := shareBlock(&block)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
