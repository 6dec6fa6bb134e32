//go:build apiserver

package poolstatus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/poolstatus"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func start(t *testing.T) client.WithWatch {
	t.Helper()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		index := poolindex.New()
		return errors.Join(
			blockindex.IndexBlocksByPool(t.Context(), mgr.GetFieldIndexer()),
			poolstatus.New(status.NewWriter(mgr), mgr.GetAPIReader(), index, slog.New(slog.DiscardHandler)).Register(mgr),
			index.Watch(t.Context(), mgr.GetCache()),
		)
	})
	c, err := client.NewWithWatch(kubetest.Config(t), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newPool(name, subnet string, ips ...string) *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: ips}},
	}
}

// block returns the block at base with a lease for each pod, from base upwards.
func block(base, pool string, state lease.State, pods ...string) *v2beta1.SpiderIPBlock {
	b := lease.Block{Base: netip.MustParseAddr(base), Node: "n1"}
	addr := b.Base
	for _, pod := range pods {
		b.Leases = append(b.Leases, lease.Lease{
			Addr: addr, State: state, Pool: pool, Since: time.Unix(1700000000, 0).UTC(),
			Holder: lease.Holder{Pod: lease.ParsePodKey(pod), PodUID: "uid-" + pod, Node: "n1", Attachment: lease.Attachment{ContainerID: "c-" + pod, Interface: "eth0"}},
		})
		addr = addr.Next()
	}
	return compile.BlockObject(b)
}

// eventually waits until check finds the pool as it should be.
func eventually(t *testing.T, c client.Client, p *v2beta1.SpiderIPPool, check func() error) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		return check()
	})
}

func condition(p *v2beta1.SpiderIPPool, want metav1.ConditionStatus, reason, message string) error {
	got := meta.FindStatusCondition(p.Status.Conditions, status.ConditionReady)
	if got == nil || got.Status != want || got.Reason != reason || !strings.Contains(got.Message, message) || got.ObservedGeneration != p.Generation {
		return fmt.Errorf("condition is %+v, want %s %s %q", got, want, reason, message)
	}
	return nil
}

func counts(p *v2beta1.SpiderIPPool, total, allocated int64) error {
	if p.Status.TotalIPCount == nil || *p.Status.TotalIPCount != total || p.Status.AllocatedIPCount == nil || *p.Status.AllocatedIPCount != allocated {
		return fmt.Errorf("status is %+v, want %d of %d allocated", p.Status, allocated, total)
	}
	return nil
}

func TestPoolIsCompleted(t *testing.T) {
	c := start(t)
	bound := newPool("bound", "10.1.0.0/24", "10.1.0.1-10.1.0.20")
	bound.Spec.NodeName = []string{"n1"}
	bound.Spec.Gateway = new("10.1.0.1")
	bound.Spec.ExcludeIPs = []string{"10.1.0.20"}
	kubetest.Create(t, c, bound)
	eventually(t, c, bound, func() error {
		if bound.Labels[names.LabelPoolNode] != "n1" || bound.Labels[names.LabelPoolUnbound] != "" || len(bound.Finalizers) != 1 || bound.Spec.IPVersion == nil || *bound.Spec.IPVersion != 4 {
			return fmt.Errorf("pool is %+v", bound)
		}
		return errors.Join(counts(bound, 18, 0), condition(bound, metav1.ConditionTrue, "InUse", ""))
	})
	// The label follows the specification.
	patch := client.MergeFrom(bound.DeepCopy())
	bound.Spec.NodeName = []string{"n1", "n2"}
	if err := c.Patch(t.Context(), bound, patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, bound, func() error {
		if _, still := bound.Labels[names.LabelPoolNode]; still || bound.Labels[names.LabelPoolUnbound] != "true" {
			return fmt.Errorf("labels are %v", bound.Labels)
		}
		return nil
	})
	// A reservation takes addresses away.
	kubetest.Create(t, c, &v2beta1.SpiderReservedIP{
		ObjectMeta: metav1.ObjectMeta{Name: "res"},
		Spec:       v2beta1.SpiderReservedIPSpec{IPs: []string{"10.1.0.5-10.1.0.6"}},
	})
	eventually(t, c, bound, func() error { return counts(bound, 16, 0) })
}

func TestStatusFollowsBlocks(t *testing.T) {
	c := start(t)
	p := newPool("viewed", "10.2.0.0/24", "10.2.0.16-10.2.0.47")
	first := block("10.2.0.16", "viewed", lease.InUse, "default/a", "default/b")
	second := block("10.2.0.32", "viewed", lease.Retained, "default/c")
	released := block("10.2.0.48", "", lease.Released)
	kubetest.Create(t, c, p, first, second, released)
	want := `{"10.2.0.16":{"pod":"default/a","podUid":"uid-default/a"},"10.2.0.17":{"pod":"default/b","podUid":"uid-default/b"},"10.2.0.32":{"pod":"default/c","podUid":"uid-default/c"}}`
	eventually(t, c, p, func() error {
		if p.Status.AllocatedIPs == nil || *p.Status.AllocatedIPs != want {
			return fmt.Errorf("allocatedIPs is %v, want %s", p.Status.AllocatedIPs, want)
		}
		return counts(p, 32, 3)
	})
	if !json.Valid([]byte(*p.Status.AllocatedIPs)) {
		t.Errorf("not JSON: %s", *p.Status.AllocatedIPs)
	}
	if err := c.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, p, func() error { return counts(p, 32, 1) })
}

func TestLeasesBlockDeletion(t *testing.T) {
	c := start(t)
	p := newPool("leaving", "10.3.0.0/24", "10.3.0.16-10.3.0.47")
	b := block("10.3.0.16", "leaving", lease.InUse, "default/a", "default/b", "default/c", "default/d", "default/e", "default/f")
	kubetest.Create(t, c, b, p)
	eventually(t, c, p, func() error { return counts(p, 32, 6) })
	if err := c.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, p, func() error {
		return condition(p, metav1.ConditionFalse, "Terminating", "deletion is blocked by 6 leases: "+
			"default/a (10.3.0.16), default/b (10.3.0.17), default/c (10.3.0.18), default/d (10.3.0.19), default/e (10.3.0.20) and 1 more")
	})
	kubetest.Event(t, c, p, "Terminating", "deletion is blocked by 6 leases: default/a (10.3.0.16)")
	if err := c.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKeyFromObject(p), p)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the pool is still there"), err)
	})
}

func TestOlderPoolWinsConflict(t *testing.T) {
	c := start(t)
	older := newPool("z-older", "10.4.0.0/24", "10.4.0.1-10.4.0.10")
	kubetest.Create(t, c, older)
	eventually(t, c, older, func() error { return condition(older, metav1.ConditionTrue, "InUse", "") })
	kubetest.NextSecond(t)
	younger := newPool("a-younger", "10.4.0.0/24", "10.4.0.8-10.4.0.20")
	wider := newPool("b-wider", "10.4.0.0/16")
	kubetest.Create(t, c, younger, wider)
	eventually(t, c, younger, func() error {
		return condition(younger, metav1.ConditionFalse, "Conflict", "spec.ips shares 10.4.0.8-10.4.0.10 with SpiderIPPool z-older; "+
			"remove these addresses from one of the two")
	})
	eventually(t, c, wider, func() error {
		return condition(wider, metav1.ConditionFalse, "Conflict", "spec.subnet 10.4.0.0/16 overlaps subnet 10.4.0.0/24 of SpiderIPPool z-older")
	})
	kubetest.Event(t, c, younger, "Conflict", "spec.ips shares 10.4.0.8-10.4.0.10 with SpiderIPPool z-older")
	kubetest.Event(t, c, wider, "Conflict", "spec.subnet 10.4.0.0/16 overlaps subnet 10.4.0.0/24 of SpiderIPPool z-older")
	eventually(t, c, older, func() error { return condition(older, metav1.ConditionTrue, "InUse", "") })
	if err := c.Delete(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, younger, func() error { return condition(younger, metav1.ConditionTrue, "InUse", "") })
}

func TestInvalidPoolIsReported(t *testing.T) {
	c := start(t)
	p := newPool("inverted", "10.5.0.0/24", "10.5.0.9-10.5.0.1")
	kubetest.Create(t, c, p)
	const fault = `spec.ips[0]: Invalid value: "10.5.0.9-10.5.0.1": is inverted`
	eventually(t, c, p, func() error { return condition(p, metav1.ConditionFalse, "Invalid", fault) })
	kubetest.Event(t, c, p, "Invalid", fault)
}

// Admission refuses such a change; it can be away.
func TestLeasesOutsidePoolAreReported(t *testing.T) {
	c := start(t)
	p := newPool("shrunk", "10.8.0.0/24", "10.8.0.16-10.8.0.47")
	kubetest.Create(t, c, p, block("10.8.0.16", "shrunk", lease.InUse, "default/a", "default/b"))
	eventually(t, c, p, func() error { return condition(p, metav1.ConditionTrue, "InUse", "") })
	change := func(ips, gateway string) {
		patch := client.MergeFrom(p.DeepCopy())
		p.Spec.IPs, p.Spec.Gateway = []string{ips}, &gateway
		if err := c.Patch(t.Context(), p, patch); err != nil {
			t.Fatal(err)
		}
	}
	change("10.8.0.17-10.8.0.47", "10.8.0.1")
	eventually(t, c, p, func() error {
		return condition(p, metav1.ConditionFalse, "LeasesOutside", "addresses in use are missing from spec.ips or equal spec.gateway: "+
			"1 lease: default/a (10.8.0.16); add them to spec.ips")
	})
	kubetest.Event(t, c, p, "LeasesOutside", "1 lease: default/a (10.8.0.16); add them to spec.ips")
	change("10.8.0.16-10.8.0.47", "10.8.0.17")
	eventually(t, c, p, func() error {
		return condition(p, metav1.ConditionFalse, "LeasesOutside", "1 lease: default/b (10.8.0.17)")
	})
	change("10.8.0.16-10.8.0.47", "10.8.0.1")
	eventually(t, c, p, func() error { return condition(p, metav1.ConditionTrue, "InUse", "") })
}

// Many changes of one pool's leases within a moment cost few writes.
func TestStatusWritesAreOneSecondApart(t *testing.T) {
	c := start(t)
	p := newPool("busy", "10.6.0.0/16", "10.6.0.0-10.6.255.255")
	kubetest.Create(t, c, p)
	eventually(t, c, p, func() error { return condition(p, metav1.ConditionTrue, "InUse", "") })
	var list v2beta1.SpiderIPPoolList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	events, err := c.Watch(t.Context(), &v2beta1.SpiderIPPoolList{}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	begin := time.Now()
	const blocks = 60
	for i := range blocks {
		kubetest.Create(t, c, block(fmt.Sprintf("10.6.%d.0", i), "busy", lease.InUse, fmt.Sprintf("default/p%d", i)))
	}
	writes := 0
	for e := range events.ResultChan() {
		p, ok := e.Object.(*v2beta1.SpiderIPPool)
		if e.Type != watch.Modified || !ok || p.Name != "busy" {
			continue
		}
		writes++
		if *p.Status.AllocatedIPCount == blocks {
			break
		}
	}
	if limit := int(time.Since(begin)/time.Second) + 1; writes > limit {
		t.Errorf("%d writes in %s, want at most one a second", writes, time.Since(begin))
	}
}
