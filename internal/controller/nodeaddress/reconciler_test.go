package nodeaddress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

const ens5 = "addresses.ipam.spidernet.io/kube-system.ens5"

// world is a cluster with a reconciler.
type world struct {
	*testing.T
	client.Client
	*Reconciler
	clock  *clocktesting.FakePassiveClock
	writes int
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	w := &world{T: t, clock: clocktesting.NewFakePassiveClock(time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC))}
	w.Client = fake.NewClientBuilder().WithScheme(scheme.New()).WithObjects(objects...).WithStatusSubresource(&corev1.Node{}).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			w.writes++
			return c.SubResource(sub).Patch(ctx, o, patch, options...)
		}}).Build()
	w.Reconciler = New(w.Client, []inet.Family{inet.IPv4, inet.IPv6}, slog.New(slog.DiscardHandler))
	w.Reconciler.clock = w.clock
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// wantOffers reconciles, and compares what a node offers.
func (w *world) wantOffers(node string, want map[string]int64) {
	w.Helper()
	_, err := w.Reconcile(w.Context(), ctrl.Request{})
	w.must(err)
	n := &corev1.Node{}
	w.must(w.Get(w.Context(), client.ObjectKey{Name: node}, n))
	for field, list := range map[string]corev1.ResourceList{"capacity": n.Status.Capacity, "allocatable": n.Status.Allocatable} {
		got := map[string]int64{}
		for name, quantity := range list {
			got[string(name)] = quantity.Value()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			w.Errorf("%s of node %s (-want +got):\n%s", field, node, diff)
		}
	}
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// poolOf returns the pool of a node with the addresses 10.6.0.16 and the following.
func poolOf(node string, count int) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "aws-" + node + "-0-v4"}}
	p.Spec.Subnet, p.Spec.IPs = "10.6.0.0/24", []string{fmt.Sprintf("10.6.0.16-10.6.0.%d", 15+count)}
	p.Spec.Default, p.Spec.NodeName, p.Spec.MultusName = new(true), []string{node}, []string{"kube-system/ens5"}
	return p
}

// pod returns a pod on node a that requests one address.
func pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	list := corev1.ResourceList{ens5: quantity(1)}
	p.Spec = corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list, Limits: list}}}}
	return p
}

// lease makes the block's leases those of the pods.
func (w *world) lease(pods ...string) {
	w.Helper()
	block := &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: "10.6.0.16"}}
	err := w.Get(w.Context(), client.ObjectKeyFromObject(block), block)
	exists := err == nil
	block.Spec = v2beta1.SpiderIPBlockSpec{CIDR: "10.6.0.16/28", Node: "a"}
	for i, name := range pods {
		block.Spec.Leases = append(block.Spec.Leases, v2beta1.Lease{
			IP: fmt.Sprintf("10.6.0.%d", 16+i), State: v2beta1.LeaseInUse, Pool: "aws-a-0-v4", Pod: "default/" + name, PodUID: "uid-" + name,
			ContainerID: "c-" + name, Interface: "eth0", Node: "a", Since: metav1.NewTime(w.clock.Now()),
		})
	}
	if exists {
		w.must(w.Update(w.Context(), block))
	} else {
		w.must(w.Create(w.Context(), block))
	}
}

func TestAssignableAddressesAreOffered(t *testing.T) {
	p := poolOf("a", 4)
	p.Annotations = map[string]string{names.AnnotationPoolAssignable: "112"}
	foreign := poolOf("b", 4) // the annotation of a user has no effect
	foreign.Annotations = p.Annotations
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v2beta1", Kind: "SpiderCloudNetwork", Name: "aws", UID: "u", Controller: new(true)}}
	w := newWorld(t, node("a"), node("b"), p, foreign)
	w.wantOffers("a", map[string]int64{ens5: 116})
	w.wantOffers("b", map[string]int64{ens5: 4})
	w.lease("web-0", "web-1", "web-2", "web-3") // full
	for i := range 8 {
		w.must(w.Create(w.Context(), pod(fmt.Sprintf("web-%d", i)))) // four of them wait
	}
	w.wantOffers("a", map[string]int64{ens5: 116}) // so the scheduler places 108 more
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(p), p))
	p.Spec.IPs, p.Annotations[names.AnnotationPoolAssignable] = []string{"10.6.0.16-10.6.0.35"}, "96"
	w.must(w.Update(w.Context(), p))
	w.wantOffers("a", map[string]int64{ens5: 116}) // a prefix more in the pool, and one less to assign
	w.must(w.Get(w.Context(), client.ObjectKeyFromObject(p), p))
	delete(p.Annotations, names.AnnotationPoolAssignable) // growth has stopped
	w.must(w.Update(w.Context(), p))
	w.wantOffers("a", map[string]int64{ens5: 116})
	w.clock.SetTime(w.clock.Now().Add(2 * lowerAfter))
	w.wantOffers("a", map[string]int64{ens5: 20})
}

func TestOfferStaysWhilePodsComeAndGo(t *testing.T) {
	w := newWorld(t, node("a"), node("b"), poolOf("a", 4))
	four := map[string]int64{ens5: 4}
	w.wantOffers("a", four)
	w.wantOffers("b", map[string]int64{})
	w.must(w.Create(t.Context(), pod("one")))
	w.wantOffers("a", four)
	w.lease("one")
	w.wantOffers("a", four)
	w.must(w.Create(t.Context(), pod("two")))
	w.lease("one", "two")
	w.wantOffers("a", four)
	w.lease("two")
	w.wantOffers("a", four)
	w.must(w.Delete(t.Context(), pod("one")))
	w.wantOffers("a", four)
	if w.writes != 1 {
		t.Errorf("%d writes, want one", w.writes)
	}
}

func TestStaticPodHoldsItsAddress(t *testing.T) {
	mirror := pod("kube-proxy") // whose lease has the UID of the pod in the kubelet's file
	mirror.UID, mirror.Annotations = "uid-mirror", map[string]string{corev1.MirrorPodAnnotationKey: "uid-kube-proxy"}
	w := newWorld(t, node("a"), poolOf("a", 4), mirror)
	w.lease("kube-proxy")
	w.wantOffers("a", map[string]int64{ens5: 4})
}

func TestUncountedPodLowersOffer(t *testing.T) {
	w := newWorld(t, node("a"), poolOf("a", 4))
	w.wantOffers("a", map[string]int64{ens5: 4})
	w.lease("old") // a pod without a request
	w.wantOffers("a", map[string]int64{ens5: 4})
	w.clock.SetTime(w.clock.Now().Add(lowerAfter))
	w.wantOffers("a", map[string]int64{ens5: 3})
	w.lease()
	w.wantOffers("a", map[string]int64{ens5: 4})
}

// The caches show a lease before its pod.
func TestShortDropIsNotWritten(t *testing.T) {
	w := newWorld(t, node("a"), poolOf("a", 4))
	w.wantOffers("a", map[string]int64{ens5: 4})
	w.lease("one")
	w.wantOffers("a", map[string]int64{ens5: 4})
	w.must(w.Create(t.Context(), pod("one")))
	w.wantOffers("a", map[string]int64{ens5: 4})
	w.clock.SetTime(w.clock.Now().Add(lowerAfter))
	w.lease("one", "old")
	w.wantOffers("a", map[string]int64{ens5: 4}) // another drop begins
}

func TestFinishedPodClaimsNothing(t *testing.T) {
	done := pod("done")
	done.Status.Phase = corev1.PodSucceeded
	w := newWorld(t, node("a"), poolOf("a", 4), done)
	w.lease("done")
	w.wantOffers("a", map[string]int64{ens5: 3})
}

// A kubelet that starts rejects running pods beyond the offer.
func TestOfferCoversPodsOfShrunkPool(t *testing.T) {
	shrunk := poolOf("a", 1)
	w := newWorld(t, node("a"), shrunk, pod("one"), pod("two"), pod("three"))
	w.lease("one", "two")
	w.wantOffers("a", map[string]int64{ens5: 3})
}

func TestKubeletsZeroIsReplaced(t *testing.T) {
	n := node("a")
	n.Status.Capacity, n.Status.Allocatable = corev1.ResourceList{ens5: quantity(0)}, corev1.ResourceList{ens5: quantity(0)}
	w := newWorld(t, n, poolOf("a", 4))
	w.wantOffers("a", map[string]int64{ens5: 4})
}

func TestOfferGoesWithItsPools(t *testing.T) {
	n := node("a")
	n.Status.Capacity, n.Status.Allocatable = corev1.ResourceList{"cpu": quantity(4)}, corev1.ResourceList{"cpu": quantity(4)}
	p := poolOf("a", 4)
	w := newWorld(t, n, p)
	w.wantOffers("a", map[string]int64{"cpu": 4, ens5: 4})
	w.must(w.Delete(t.Context(), p))
	w.wantOffers("a", map[string]int64{"cpu": 4, ens5: 4})
	w.clock.SetTime(w.clock.Now().Add(lowerAfter))
	w.wantOffers("a", map[string]int64{"cpu": 4})
}

func TestAttachmentWithOwnPoolsIsNotOffered(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   map[string]int64
	}{
		"default pools": {`{"type":"ipvlan","ipam":{"type":"spiderpool"}}`, map[string]int64{ens5: 4}},
		"own pools":     {`{"type":"ipvlan","ipam":{"type":"spiderpool","default_ipv4_ippool":["blue"]}}`, map[string]int64{}},
		"other IPAM":    {`{"type":"ipvlan","ipam":{"type":"host-local"}}`, map[string]int64{}},
		"invalid":       {`{`, map[string]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			definition := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "ens5"}}
			definition.Spec.Config = test.config
			newWorld(t, node("a"), poolOf("a", 4), definition).wantOffers("a", test.want)
		})
	}
}

// One node cannot be written; the others are.
func TestFailedWriteLeavesOthers(t *testing.T) {
	w := newWorld(t, node("a"), node("b"), poolOf("a", 4), poolOf("b", 4))
	broken := errors.New("no")
	w.Reconciler.client = interceptor.NewClient(w.Client.(client.WithWatch), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, options ...client.SubResourcePatchOption) error {
			if o.GetName() == "a" {
				return broken
			}
			return c.SubResource(sub).Patch(ctx, o, patch, options...)
		},
	})
	if _, err := w.Reconcile(t.Context(), ctrl.Request{}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	n := &corev1.Node{}
	w.must(w.Get(t.Context(), client.ObjectKey{Name: "b"}, n))
	if got := n.Status.Capacity[ens5]; got.Value() != 4 {
		t.Errorf("node b offers %s", got.String())
	}
}

func TestOnlyChangesOfSumWakeUp(t *testing.T) {
	unbound, bound, done, other := pod("p"), pod("p"), pod("p"), pod("p")
	unbound.Spec.NodeName, done.Status.Phase, other.Spec.Containers = "", corev1.PodFailed, nil
	for name, test := range map[string]struct {
		before, after *corev1.Pod
		want          bool
	}{
		"bound": {unbound, bound, true}, "done": {bound, done, true}, "same": {bound, bound, false}, "other": {other, other, false},
	} {
		if got := podChanges.Update(event.UpdateEvent{ObjectOld: test.before, ObjectNew: test.after}); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	idle, offering, labeled := node("a"), node("a"), node("a")
	offering.Status.Capacity, labeled.Labels = corev1.ResourceList{ens5: quantity(1)}, map[string]string{"zone": "a"}
	heartbeat := node("a")
	heartbeat.ResourceVersion = "2"
	for name, test := range map[string]struct {
		after *corev1.Node
		want  bool
	}{"heartbeat": {heartbeat, false}, "offer": {offering, true}, "label": {labeled, true}} {
		if got := nodeChanges.Update(event.UpdateEvent{ObjectOld: idle, ObjectNew: test.after}); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
