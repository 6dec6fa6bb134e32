//go:build apiserver

package leasereclaim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/endpoint"
	"spiderpool.dev/spiderpool/internal/controller/leasereclaim"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// long ago is longer than anything is waited for.
var longAgo = time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Second)

// counter counts addresses by the reason, and failures by "reason failed".
type counter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *counter) Reclaimed(reason reclaim.Reason, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		reason += " failed"
	}
	c.counts[string(reason)]++
}

// want waits until just these are counted, which is after the block was written.
func (c *counter) want(t *testing.T, counts map[string]int) {
	t.Helper()
	kubetest.Eventually(t, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !maps.Equal(c.counts, counts) {
			return fmt.Errorf("counted %v, want %v", c.counts, counts)
		}
		return nil
	})
}

func start(t *testing.T) (client.Client, *counter) {
	t.Helper()
	return startEvery(t, time.Second)
}

func startEvery(t *testing.T, interval time.Duration) (client.Client, *counter) {
	t.Helper()
	observed := &counter{counts: map[string]int{}}
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		discard := slog.New(slog.DiscardHandler)
		return errors.Join(
			blockindex.IndexBlocksByHolder(t.Context(), mgr.GetFieldIndexer()),
			endpoint.New(mgr.GetClient(), mgr.GetAPIReader(), discard).Register(mgr),
			leasereclaim.New(status.NewWriter(mgr), mgr.GetAPIReader(), leasereclaim.Options{
				Policy:   reclaim.Policy{Enabled: true, FixedForStatefulSet: true, FixedForKubeVirt: true, ScaledDownRetention: time.Second},
				Interval: interval, Idle: time.Second, Observer: observed,
			}, discard).Register(mgr),
		)
	})
	return kubetest.Client(t), observed
}

func inUse(addr, pod, uid, node string) lease.Lease {
	return lease.Lease{
		Addr: netip.MustParseAddr(addr), State: lease.InUse, Pool: "p", Since: longAgo,
		Holder: lease.Holder{Pod: lease.ParsePodKey(pod), PodUID: uid, Node: node, Attachment: lease.Attachment{ContainerID: "c-" + addr, Interface: "eth0"}},
	}
}

func block(base string, leases ...lease.Lease) *v2beta1.SpiderIPBlock {
	return compile.BlockObject(lease.Block{Base: netip.MustParseAddr(base), Node: "creator", Leases: leases})
}

func node(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

// states returns the block's leases as "address state" in their order.
func states(ctx context.Context, c client.Client, b *v2beta1.SpiderIPBlock) (string, error) {
	if err := c.Get(ctx, client.ObjectKeyFromObject(b), b); err != nil {
		return "", err
	}
	var out []string
	for _, l := range b.Spec.Leases {
		out = append(out, fmt.Sprintf("%s %s", l.IP, l.State))
	}
	return strings.Join(out, ", "), nil
}

func eventually(t *testing.T, c client.Client, b *v2beta1.SpiderIPBlock, want string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if got, err := states(ctx, c, b); err != nil || got != want {
			return fmt.Errorf("block has %q, want %q: %w", got, want, errors.Join(err, errors.New("not yet")))
		}
		return nil
	})
}

func TestAddressesOfDeletedNodeAreReclaimed(t *testing.T) {
	c, observed := start(t)
	lost, living, kept := node("lost"), node("living"), pod("kept")
	kubetest.Create(t, c, lost, living, kept)
	b := block("10.1.0.0",
		inUse("10.1.0.1", "default/gone", "u1", "lost"),
		inUse("10.1.0.2", "default/kept", string(kept.UID), "lost"),
		inUse("10.1.0.3", "default/also-gone", "u3", "living"),
	)
	shown := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "gone"}}
	shown.Status.Current = v2beta1.EndpointAllocation{UID: "u1", Node: "lost", IPs: []v2beta1.EndpointIP{{Interface: "eth0", IPv4: new("10.1.0.1/24")}}}
	kubetest.Create(t, c, b, shown)
	if err := c.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	// The pod that exists keeps its address, and so does the one whose node's
	// agent can tell whether it is still there.
	eventually(t, c, b, "10.1.0.1 Released, 10.1.0.2 InUse, 10.1.0.3 InUse")
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(shown), shown); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the endpoint is still there: %w", errors.Join(err, errors.New("found")))
		}
		return eventSeen(ctx, c, "gone", "reclaimed 10.1.0.1 of pool p (PodGone): pod default/gone does not exist, and node lost does not exist")
	})
	if err := c.Delete(t.Context(), kept, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, b, "10.1.0.1 Released, 10.1.0.2 Released, 10.1.0.3 InUse")
	observed.want(t, map[string]int{string(reclaim.PodGone): 2})
}

// What happens to a pod is seen at once, however long the interval is.
func TestEndedPodOfDeletedNodeIsReclaimed(t *testing.T) {
	c, observed := startEvery(t, time.Hour)
	gone, failed, succeeded := pod("ends-gone"), pod("ends-failed"), pod("ends-succeeded")
	kubetest.Create(t, c, gone, failed, succeeded)
	b := block("10.11.0.0",
		inUse("10.11.0.1", "default/ends-gone", string(gone.UID), "never-was"),
		inUse("10.11.0.2", "default/ends-failed", string(failed.UID), "never-was"),
		inUse("10.11.0.3", "default/ends-succeeded", string(succeeded.UID), "never-was"),
	)
	// The sentinel shows that the block, which is older, has been looked at.
	sentinel := block("10.11.1.0", inUse("10.11.1.1", "default/nobody", "u1", "never-was"))
	kubetest.Create(t, c, b, sentinel)
	eventually(t, c, sentinel, "10.11.1.1 Released")
	if got, err := states(t.Context(), c, b); err != nil || got != "10.11.0.1 InUse, 10.11.0.2 InUse, 10.11.0.3 InUse" {
		t.Fatalf("block has %q, error %v", got, err)
	}
	if err := c.Delete(t.Context(), gone, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, b, "10.11.0.1 Released, 10.11.0.2 InUse, 10.11.0.3 InUse")
	for pod, phase := range map[*corev1.Pod]corev1.PodPhase{failed: corev1.PodFailed, succeeded: corev1.PodSucceeded} {
		pod.Status.Phase = phase
		if err := c.Status().Update(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, c, b, "10.11.0.1 Released, 10.11.0.2 Released, 10.11.0.3 Released")
	observed.want(t, map[string]int{string(reclaim.PodGone): 2, string(reclaim.PodFailed): 1, string(reclaim.PodSucceeded): 1})
}

func eventSeen(ctx context.Context, c client.Client, pod, note string) error {
	var events eventsv1.EventList
	if err := c.List(ctx, &events, client.InNamespace("default")); err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.Regarding.Name == pod && e.Reason == "ReclaimedIP" && e.Note == note {
			return nil
		}
	}
	return fmt.Errorf("no event of pod %s with %q among %d", pod, note, len(events.Items))
}

func TestNotReadyNodeKeepsAddresses(t *testing.T) {
	c, _ := start(t)
	n := node("silent", corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	kubetest.Create(t, c, n)
	b := block("10.2.0.0", inUse("10.2.0.1", "default/gone", "u1", "silent"))
	// Once a sentinel is reclaimed, the reconciler has judged the others, too.
	sentinel := block("10.2.1.0", inUse("10.2.1.1", "default/gone", "u1", "never-was"))
	kubetest.Create(t, c, b, sentinel)
	eventually(t, c, sentinel, "10.2.1.1 Released")
	if got, err := states(t.Context(), c, b); err != nil || got != "10.2.0.1 InUse" {
		t.Fatalf("block has %q, error %v; an address was freed without proof", got, err)
	}
	patch := client.MergeFrom(n.DeepCopy())
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	if err := c.Patch(t.Context(), n, patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, b, "10.2.0.1 Released")
}

func TestFixedAddressesFollowStatefulSet(t *testing.T) {
	c, observed := start(t)
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: pod("").Spec},
		},
	}
	kubetest.Create(t, c, set)
	retained := func(addr, pod string) lease.Lease {
		l := inUse(addr, "default/"+pod, "u", "n")
		l.State, l.FixedFor = lease.Retained, lease.ParseOwner("Pod/default/"+pod)
		return l
	}
	machine := retained("10.3.0.4", "virt-launcher-x")
	machine.FixedFor = lease.ParseOwner("VirtualMachine/default/vm")
	b := block("10.3.0.0", retained("10.3.0.1", "db-0"), retained("10.3.0.2", "db-2"), retained("10.3.0.3", "other-0"), machine)
	kubetest.Create(t, c, b)
	// db-0 is wanted; db-2 is scaled away; other and vm do not exist.
	eventually(t, c, b, "10.3.0.1 Retained, 10.3.0.2 Released, 10.3.0.3 Released, 10.3.0.4 Released")
	// Forged owners of an earlier release: no StatefulSet has such a pod.
	forged := block("10.3.0.16", retained("10.3.0.17", "forged"), retained("10.3.0.18", "db-00"))
	later, orphan := retained("10.3.0.33", "rack"), retained("10.3.0.34", "rack")
	later.FixedFor, orphan.FixedFor = lease.ParseOwner("Rack/default/r1"), lease.ParseOwner("Rack/gone/r1")
	unknown := block("10.3.0.32", later, orphan)
	kubetest.Create(t, c, forged, unknown)
	eventually(t, c, forged, "10.3.0.17 Released, 10.3.0.18 Released")
	eventually(t, c, unknown, "10.3.0.33 Retained, 10.3.0.34 Released")
	if err := c.Delete(t.Context(), set, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, b, "10.3.0.1 Released, 10.3.0.2 Released, 10.3.0.3 Released, 10.3.0.4 Released")
	observed.want(t, map[string]int{string(reclaim.FixedScaledDown): 1, string(reclaim.FixedOwnerGone): 6})
}

// The time of the release comes from a clock that is years ahead.
func TestEmptyBlocksAreDeleted(t *testing.T) {
	c, _ := start(t)
	released := func(addr string) lease.Lease {
		return lease.Lease{Addr: netip.MustParseAddr(addr), State: lease.Released, Since: longAgo.AddDate(10, 0, 0)}
	}
	n := node("with-a-used-block")
	empty, used := block("10.4.0.0", released("10.4.0.1")), block("10.4.1.0", released("10.4.1.1"), inUse("10.4.1.2", "default/holder", "u", n.Name))
	kubetest.Create(t, c, n, used, empty)
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(empty), empty); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the empty block is still there"), err)
		}
		return nil
	})
	if _, err := states(t.Context(), c, used); err != nil {
		t.Errorf("the block with an address in use: %v", err)
	}
}

// The template of the StatefulSet has lost our network. A pod that runs without a lease is
// the proof; one that has a lease, or no network yet, is none.
func TestAddressesOfLeftStatefulSetAreFreed(t *testing.T) {
	c, observed := start(t)
	labels := map[string]string{"a": "left"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "left"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(4)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
	}}
	running, same, using, pending := pod("left-0"), pod("left-1"), pod("left-2"), pod("left-3")
	kubetest.Create(t, c, node("living"), set, running, same, using, pending)
	for _, p := range []*corev1.Pod{running, same, using} {
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, "192.0.2.1", []corev1.PodIP{{IP: "192.0.2.1"}}
		if err := c.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	retained := func(addr, pod, uid string) lease.Lease {
		l := inUse(addr, "default/"+pod, uid, "living")
		l.State, l.FixedFor = lease.Retained, lease.ParseOwner("Pod/default/"+pod)
		return l
	}
	b := block("10.12.0.0", retained("10.12.0.1", "left-0", "old"), retained("10.12.0.2", "left-1", string(same.UID)),
		retained("10.12.0.3", "left-2", "old"), retained("10.12.0.4", "left-3", "old"))
	ordinary := inUse("10.12.0.17", "default/left-2", string(using.UID), "living") // an unproven owner
	// The sentinel is judged after the others, and as often.
	sentinel := block("10.12.1.0", retained("10.12.1.1", "left-9", "old"))
	kubetest.Create(t, c, block("10.12.0.16", ordinary), b, sentinel)
	eventually(t, c, b, "10.12.0.1 Released, 10.12.0.2 Retained, 10.12.0.3 Retained, 10.12.0.4 Retained")
	eventually(t, c, sentinel, "10.12.1.1 Released")
	observed.want(t, map[string]int{string(reclaim.FixedLeft): 1, string(reclaim.FixedScaledDown): 1})
	if got, err := states(t.Context(), c, b); err != nil || got != "10.12.0.1 Released, 10.12.0.2 Retained, 10.12.0.3 Retained, 10.12.0.4 Retained" {
		t.Errorf("block has %q, error %v", got, err)
	}
}

func TestPodOrLeaseKeepsEndpoint(t *testing.T) {
	shown := func(name string) *v2beta1.SpiderEndpoint {
		e := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		e.Status.Current.IPs = []v2beta1.EndpointIP{}
		return e
	}
	c := kubetest.Client(t)
	p := pod("with-pod")
	machine := inUse("10.5.0.2", "default/virt-launcher-y", "u", "n1")
	machine.FixedFor = lease.ParseOwner("VirtualMachine/default/with-machine")
	b := block("10.5.0.0", inUse("10.5.0.1", "default/with-lease", "u", "n1"), machine)
	withPod, withLease, withMachine, stale := shown("with-pod"), shown("with-lease"), shown("with-machine"), shown("stale")
	kubetest.Create(t, c, node("n1"), p, b, withPod, withLease, withMachine, stale)
	start(t)
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(stale), stale); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the stale endpoint is still there"), err)
		}
		return nil
	})
	for _, e := range []*v2beta1.SpiderEndpoint{withPod, withLease, withMachine} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(e), e); err != nil {
			t.Errorf("endpoint %s: %v", e.Name, err)
		}
	}
	if err := c.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(withPod), withPod); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the endpoint of the deleted pod is still there"), err)
		}
		return nil
	})
}

func TestReplacedRetainedAddressIsReclaimed(t *testing.T) {
	c, observed := start(t)
	replicas := int32(1)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "moved"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "moved"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "moved"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	of := func(addr, ifname string, state lease.State) lease.Lease {
		l := inUse(addr, "default/moved-0", "u1", "living")
		l.State, l.Interface, l.FixedFor = state, ifname, lease.ParseOwner("Pod/default/moved-0")
		return l
	}
	old := block("10.9.0.0", of("10.9.0.1", "eth0", lease.Retained), of("10.9.0.2", "net1", lease.Retained))
	kubetest.Create(t, c, node("living"), set, old, block("10.9.0.16", of("10.9.0.17", "eth0", lease.InUse)))
	eventually(t, c, old, "10.9.0.1 Released, 10.9.0.2 Retained")
	observed.want(t, map[string]int{string(reclaim.FixedReplaced): 1})
}
