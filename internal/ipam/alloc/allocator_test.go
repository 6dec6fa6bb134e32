package alloc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

var held, rangePool = ipamtest.Held, ipamtest.RangePool

// conflicts counts them by what was to be written.
type conflicts struct{ allocations, releases atomic.Int64 }

func (c *conflicts) AllocationConflict()             { c.allocations.Add(1) }
func (c *conflicts) ReleaseConflict()                { c.releases.Add(1) }
func (c *conflicts) Damaged()                        {}
func (c *conflicts) Committed(int, time.Duration)    {}
func (c *conflicts) Reclaimed(reclaim.Reason, error) {}

// newAllocator returns an allocator of a node that has read its blocks and knows
// the pools.
func newAllocator(t testing.TB, node string, store *ipamtest.Store, pools ...*pool.Pool) *alloc.Allocator {
	t.Helper()
	return newAllocatorWith(t, alloc.Config{Node: node, Observer: &conflicts{}, SearchEvery: -1}, store, pools...)
}

// newAllocatorWith is newAllocator with a configuration of its own.
func newAllocatorWith(t testing.TB, c alloc.Config, store *ipamtest.Store, pools ...*pool.Pool) *alloc.Allocator {
	t.Helper()
	c.Blocks, c.Older, c.Log, c.ReuseAfter = store, store.Older, slog.New(slog.DiscardHandler), -1
	if c.Now == nil {
		c.Now = time.Now
	}
	a := alloc.New(c)
	for _, p := range pools {
		a.SetUsable(p.Name, p.Usable(inet.Set{}))
	}
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

func request(node, container string, wants ...lease.Want) lease.Request {
	return lease.Request{Pod: lease.ParsePodKey("default/" + container), PodUID: "uid-" + container, ContainerID: container, Node: node, Wants: wants}
}

func want(ifname string, family inet.Family, pools ...string) lease.Want {
	return lease.Want{Interface: ifname, Family: family, Pools: pools}
}

// allocate grants what a request that arrives now wants.
func allocate(ctx context.Context, a *alloc.Allocator, req lease.Request) ([]lease.Grant, error) {
	grants, _, err := a.Allocate(ctx, req, a.Arrive())
	return grants, err
}

func TestNodesUsePoolToLastAddress(t *testing.T) {
	const nodes, pods = 4, 500
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/16", "10.0.0.3-10.0.1.246") // 500 addresses
	var mu sync.Mutex
	holders := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for n := range nodes {
		node := fmt.Sprintf("node-%d", n)
		a := newAllocator(t, node, store, p)
		t.Cleanup(a.Close)
		// As many as fall to each node, and more on the first.
		share := pods/nodes - 10
		if n == 0 {
			share = pods - (nodes-1)*share
		}
		for worker := range 8 {
			wg.Go(func() {
				for i := worker; i < share; i += 8 {
					container := fmt.Sprintf("%s-%d", node, i)
					grants, err := allocate(t.Context(), a, request(node, container, want("eth0", 4, "p")))
					if err != nil {
						t.Errorf("%s: %v", container, err)
						return
					}
					mu.Lock()
					if other, twice := holders[grants[0].Addr]; twice {
						t.Errorf("%s was given to %s and %s", grants[0].Addr, other, container)
					}
					holders[grants[0].Addr] = container
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if len(holders) != pods || len(held(t, store)) != pods {
		t.Fatalf("%d addresses given, %d leased, want %d", len(holders), len(held(t, store)), pods)
	}
	// How often nodes meet depends on the scheduler, but no write that succeeds is
	// for nothing.
	if puts, lost := store.Count("put"), store.Count("conflict"); puts-lost > pods || lost > pods {
		t.Errorf("%d writes of which %d conflicts for %d pods", puts, lost, pods)
	}
}

// commits notes the requests of each batch.
type commits struct {
	conflicts
	requests []int
}

func (c *commits) Committed(requests int, _ time.Duration) { c.requests = append(c.requests, requests) }

func TestObserverLearnsOfEveryCommit(t *testing.T) {
	seen := &commits{}
	a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: seen, SearchEvery: -1}, &ipamtest.Store{}, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.17"))
	if _, err := allocate(t.Context(), a, request("a", "c1", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c1", Interface: "eth0"}, lease.Attachment{ContainerID: "unknown", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "unknown", Interface: "eth0"}); err != nil {
		t.Fatal(err) // writes nothing
	}
	a.Close()
	if !slices.Equal(seen.requests, []int{1, 1}) {
		t.Errorf("commits of %v requests, want two of one", seen.requests)
	}
}

func TestExhaustedPoolServesAgainAfterRelease(t *testing.T) {
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.17")
	a, b := newAllocator(t, "a", store, p), newAllocator(t, "b", store, p)
	t.Cleanup(a.Close)
	t.Cleanup(b.Close)
	for _, container := range []string{"a1", "a2"} {
		if _, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p"))); err != nil {
			t.Fatal(err)
		}
	}
	var exhausted *lease.ExhaustedError
	if _, err := allocate(t.Context(), b, request("b", "b1", want("eth0", 4, "p"))); !errors.As(err, &exhausted) {
		t.Fatalf("got %v, want an ExhaustedError", err)
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "a1", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := allocate(t.Context(), b, request("b", "b1", want("eth0", 4, "p"))); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestAllWantsOrNone(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "v4", "10.0.0.0/24", "10.0.0.2-10.0.0.9"), rangePool(t, "v6", "fd00::/64", "fd00::1"))
	t.Cleanup(a.Close)
	wants := func(ifname string) []lease.Want { return []lease.Want{want(ifname, 4, "v4"), want(ifname, 6, "v6")} }
	if _, err := allocate(t.Context(), a, request("a", "one", wants("eth0")...)); err != nil {
		t.Fatal(err)
	}
	_, err := allocate(t.Context(), a, request("a", "two", wants("eth0")...))
	var exhausted *lease.ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Family != 6 {
		t.Fatalf("got %v, want IPv6 to be exhausted", err)
	}
	if leases := held(t, store); len(leases) != 2 {
		t.Errorf("leases %v, want those of the first pod alone", leases)
	}
}

func TestRequestsBatchDuringCommit(t *testing.T) {
	const waiting = 12
	store := &ipamtest.Store{}
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	var first atomic.Bool
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" && first.CompareAndSwap(false, true) {
			entered <- struct{}{}
			<-release
		}
		return nil
	}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	var wg sync.WaitGroup
	allocate := func(container string) {
		if _, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p"))); err != nil {
			t.Errorf("%s: %v", container, err)
		}
	}
	wg.Go(func() { allocate("first") })
	<-entered
	for i := range waiting {
		wg.Go(func() { allocate(fmt.Sprint(i)) })
	}
	awaitQueued(a, waiting)
	close(release)
	wg.Wait()
	if puts := store.Count("put"); puts != 2 {
		t.Errorf("%d writes for %d pods, want 2", puts, waiting+1)
	}
}

func TestAddRepeatsAfterLostAnswer(t *testing.T) {
	store := &ipamtest.Store{}
	lost := true
	store.After = func(netip.Addr) error {
		if lost {
			lost = false
			return errors.New("connection reset")
		}
		return nil
	}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
	a := newAllocator(t, "a", store, p)
	t.Cleanup(a.Close)
	r := request("a", "c", want("eth0", 4, "p"))
	if _, err := allocate(t.Context(), a, r); err == nil {
		t.Fatal("a write without an answer counted as done")
	}
	grants, err := allocate(t.Context(), a, r)
	if err != nil || !grants[0].Held {
		t.Fatalf("got %+v, %v; want what was written", grants, err)
	}
	// The same after a restart.
	b := newAllocator(t, "a", store, p)
	t.Cleanup(b.Close)
	again, err := allocate(t.Context(), b, r)
	if err != nil || again[0].Addr != grants[0].Addr {
		t.Errorf("after a restart: %+v, %v; want %s", again, err, grants[0].Addr)
	}
	if leases := held(t, store); len(leases) != 1 {
		t.Errorf("leases %v", leases)
	}
}

func TestReleaseFailsWhileLeasesAreUnknown(t *testing.T) {
	store := &ipamtest.Store{}
	var down, unanswered atomic.Bool
	store.Before = func(string, netip.Addr) error {
		if down.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	store.After = func(netip.Addr) error {
		if !unanswered.Load() {
			return nil
		}
		down.Store(true)
		return errors.New("connection reset")
	}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	unanswered.Store(true)
	if _, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p"))); err == nil {
		t.Fatal("a write without an answer counted as done")
	}
	at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
	if err := a.Release(t.Context(), at); err == nil {
		t.Error("the release of a lease that may exist succeeded without the store")
	}
	down.Store(false)
	unanswered.Store(false)
	if err := a.Release(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if leases := held(t, store); len(leases) != 0 {
		t.Errorf("leaked %v", leases)
	}
}

func TestLateReleaseKeepsNewAddress(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	old := request("a", "old", want("eth0", 4, "p"))
	fresh := old
	fresh.ContainerID = "new" // the same pod in a new sandbox
	if _, err := allocate(t.Context(), a, old); err != nil {
		t.Fatal(err)
	}
	grants, err := allocate(t.Context(), a, fresh)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "old", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if l := held(t, store)[grants[0].Addr]; l.ContainerID != "new" {
		t.Errorf("the new sandbox lost %s: %+v", grants[0].Addr, l)
	}
}

func TestOutdatedEventsChangeNothing(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	allocate := func(container string) netip.Addr {
		grants, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p")))
		if err != nil {
			t.Fatal(err)
		}
		return grants[0].Addr
	}
	base := inet.BlockOf(allocate("one"))
	before, err := store.Get(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	allocate("two")
	a.Observe(before)
	a.ObserveDeleted(base, before.Version)
	at := lease.Attachment{ContainerID: "two", Interface: "eth0"}
	if len(a.Attached(at)) != 1 {
		t.Fatal("an outdated event made the allocator forget a lease")
	}
	if a.Knows(base, before.Version) == false {
		t.Error("an outdated version is worth a read")
	}
	for _, container := range []string{"one", "two"} {
		if err := a.Release(t.Context(), lease.Attachment{ContainerID: container, Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	current, err := store.Get(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	a.ObserveDeleted(base, current.Version)
	if a.Knows(base, current.Version) {
		t.Error("the deleted block is still known")
	}
}

func TestClosedAllocatorFailsRequests(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	a.Close()
	if _, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p"))); err == nil {
		t.Error("a closed allocator allocated")
	}
	if leases := held(t, store); len(leases) != 0 {
		t.Errorf("leases %v", leases)
	}
}

// awaitQueued waits until n requests or more wait for the next batch.
func awaitQueued(a *alloc.Allocator, n int) {
	for a.Queued() < n {
		time.Sleep(time.Millisecond)
	}
}
