package alloc_test

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

func TestAgentAcceptsRestoredStore(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	allocate := func(container string) error {
		_, err := allocate(t.Context(), a, request("n1", container, want("eth0", 4, "p")))
		return err
	}
	if err := allocate("a"); err != nil {
		t.Fatal(err)
	}
	backup := store.Backup()
	for _, container := range []string{"b", "c"} {
		if err := allocate(container); err != nil {
			t.Fatal(err)
		}
	}
	store.Restore(backup)
	if err := allocate("d"); err != nil {
		t.Fatal(err)
	}
	holders := map[string]bool{}
	for _, l := range held(t, store) {
		holders[l.ContainerID] = true
	}
	for _, container := range []string{"a", "b", "c", "d"} {
		if !holders[container] {
			t.Errorf("container %s has no lease after the restore", container)
		}
	}
}

func TestUnreadBlockStopsOnlyItsPods(t *testing.T) {
	store := &ipamtest.Store{}
	var broken atomic.Bool
	bad := netip.MustParseAddr("10.0.0.16")
	store.Before = func(operation string, base netip.Addr) error {
		if broken.Load() && base == bad && operation != "list" {
			return errors.New("cannot be decoded")
		}
		return nil
	}
	now := time.Now()
	var mu sync.Mutex
	a := newAllocatorWith(t, alloc.Config{Node: "n1", Observer: &conflicts{}, SearchEvery: -1, Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}}, store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.47"))
	t.Cleanup(a.Close)
	allocate := func(container string) error {
		_, err := allocate(t.Context(), a, request("n1", container, want("eth0", 4, "p")))
		return err
	}
	for i := range inet.BlockSize + 1 { // the first block that the node chooses, and one lease of the other
		if err := allocate(strings.Repeat("x", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	inBad := ""
	for addr, l := range held(t, store) {
		if inet.BlockOf(addr) == bad {
			inBad = l.ContainerID
		}
	}
	broken.Store(true)
	at := lease.Attachment{ContainerID: inBad, Interface: "eth0"}
	if err := a.Release(t.Context(), at); err == nil {
		t.Fatal("a release in a broken block succeeded")
	}
	if err := a.Release(t.Context(), at); !errors.Is(err, alloc.ErrNotReady) {
		t.Errorf("the pod of the broken block: %v, want not ready", err)
	}
	if err := allocate("other"); err != nil {
		t.Errorf("another pod: %v", err)
	}
	if err := a.Ready(); err != nil {
		t.Errorf("at once: %v", err)
	}
	mu.Lock()
	now = now.Add(10 * time.Second)
	mu.Unlock()
	if err := a.Ready(); err == nil || !strings.Contains(err.Error(), "10.0.0.16/28 could not be read for 10s") {
		t.Errorf("after ten seconds: %v", err)
	}
	broken.Store(false)
	if err := errors.Join(a.ReadUnread(t.Context()), a.Ready(), a.Release(t.Context(), at)); err != nil {
		t.Error(err)
	}
}

var errAway = errors.New("connection refused")

// restarted returns the allocator of an agent on node n1 whose earlier process granted the
// request of container c.
func restarted(t *testing.T, store *ipamtest.Store, p *pool.Pool) (*alloc.Allocator, lease.Request) {
	t.Helper()
	before := newAllocator(t, "n1", store, p)
	r := request("n1", "c", want("eth0", 4, "p"))
	if _, err := allocate(t.Context(), before, r); err != nil {
		t.Fatal(err)
	}
	before.Close()
	after := newAllocator(t, "n1", store, p)
	t.Cleanup(after.Close)
	return after, r
}

// An earlier process of the agent released the lease, and its write is still on its way.
func TestRestartedAgentOutrunsLateRelease(t *testing.T) {
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
	after, r := restarted(t, store, p)
	late, ok := store.All()[0].Release(lease.Attachment{ContainerID: "c", Interface: "eth0"}, time.Now())
	if !ok {
		t.Fatal("the block lacks the lease")
	}
	if _, err := allocate(t.Context(), after, r); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), late); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("the late release: %v, want a conflict", err)
	}
}

// An earlier process of the agent released the lease, and the write came late. By now, the
// address is reserved for a pod that used it on another node.
func TestLostLeaseLeavesReservation(t *testing.T) {
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16")
	after, r := restarted(t, store, p)
	late, _ := store.All()[0].Release(lease.Attachment{ContainerID: "c", Interface: "eth0"}, time.Now())
	if _, err := store.Put(t.Context(), late); err != nil {
		t.Fatal(err)
	}

	other := newAllocator(t, "n2", store, p)
	t.Cleanup(other.Close)
	fixed := request("n2", "f", want("eth0", 4, "p"))
	fixed.FixedFor = lease.Owner{Kind: "Pod", Namespace: "default", Name: "web-0"}
	if _, err := allocate(t.Context(), other, fixed); err != nil {
		t.Fatal(err)
	}
	if err := other.Release(t.Context(), lease.Attachment{ContainerID: "f", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}

	if err := after.Read(t.Context(), late.Base); err != nil {
		t.Fatal(err)
	}
	next := r
	next.ContainerID = "d" // a later sandbox of the same pod
	if grants, err := allocate(t.Context(), after, next); err == nil {
		t.Errorf("the pod on n1 got %v, which is reserved", grants)
	}
	if l := store.All()[0].Leases[0]; l.State != lease.Retained || l.FixedFor != fixed.FixedFor {
		t.Errorf("lease %+v, want it reserved for %s", l, fixed.FixedFor)
	}
}

// A restore of etcd from a backup brought the block back in which the controller withheld the address.
func TestLostLeaseLeavesWithheldAddress(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16"))
	t.Cleanup(a.Close)
	if _, err := allocate(t.Context(), a, request("n1", "c", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	b := store.All()[0]
	b.Leases = nil
	b, _ = b.Withhold(1, "aws", "p", time.Now())
	if _, err := store.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := a.Read(t.Context(), b.Base); err != nil || !a.HasLost() {
		t.Fatalf("read: %v, lost: %t", err, a.HasLost())
	}
	if _, _, err := a.Restore(t.Context(), func(lease.Lease) bool { return true }, 0); err != nil {
		t.Fatal(err)
	}
	b = store.All()[0]
	if l, _ := b.Lease(b.Base); l.State != lease.Withheld || len(b.Former) != 1 || b.Former[0].ContainerID != "c" {
		t.Errorf("got %+v, want the address withheld, and its sandbox as a former one", b)
	}
}

// A release had no answer and was not carried out, as another node's write of the block
// proves. So the lease goes on, and must come back when a user deletes the block.
func TestFailedReleaseKeepsLease(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	if _, err := allocate(t.Context(), a, request("n1", "c", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			return errAway
		}
		return nil
	}
	if err := a.Release(t.Context(), at); !errors.Is(err, errAway) {
		t.Fatalf("release: %v", err)
	}
	store.Before = nil
	b := store.All()[0]
	other := lease.Holder{Attachment: lease.Attachment{ContainerID: "other", Interface: "eth0"}, Node: "n2"}
	var err error
	b = b.With(lease.Lease{Addr: netip.MustParseAddr("10.0.0.31"), State: lease.InUse, Pool: "p", Holder: other})
	if b.Version, err = store.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Read(t.Context(), b.Base), store.Delete(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	a.ObserveDeleted(b.Base, b.Version)
	if err := a.ReadUnread(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held := a.Attached(at); len(held) != 1 || !a.HasLost() {
		t.Errorf("after the deletion of the block, the node knows %v, lost: %t", held, a.HasLost())
	}
}

// A lease from an earlier process may have ended. While its block is unreadable, the ADD
// fails.
func TestUnreadableLeaseFailsRepeatedAdd(t *testing.T) {
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
	after, r := restarted(t, store, p)
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "get" {
			return errAway
		}
		return nil
	}
	if grants, err := allocate(t.Context(), after, r); !errors.Is(err, errAway) {
		t.Errorf("got %v, %v, want the error of the read", grants, err)
	}
}

func TestDoubtfulBlockIsNotKnown(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	base := netip.MustParseAddr("10.0.0.16")
	if a.Knows(base, "1") {
		t.Error("a block that was never read is known")
	}
	if _, err := allocate(t.Context(), a, request("n1", "c", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	if !a.Knows(base, "1") || a.Knows(base, "2") {
		t.Error("want the written version known, and no newer one")
	}
	store.Before = func(string, netip.Addr) error { return errAway }
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c", Interface: "eth0"}); !errors.Is(err, errAway) {
		t.Fatalf("release: %v", err)
	}
	if a.Knows(base, "1") {
		t.Error("a block is known whose write had no answer")
	}
}

// The controller deleted the block of a released address. A new lease of the address is
// young, also if the answer to the release was lost.
func TestLeaseInNewBlockIsYoung(t *testing.T) {
	store := &ipamtest.Store{}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16")
	a := newAllocatorWith(t, alloc.Config{Node: "n1", Observer: &conflicts{}, SearchEvery: -1, Now: func() time.Time { return now }}, store, p)
	t.Cleanup(a.Close)
	r := request("n1", "c", want("eth0", 4, "p"))
	if _, err := allocate(t.Context(), a, r); err != nil {
		t.Fatal(err)
	}
	store.After = func(netip.Addr) error { return errAway }
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "get" {
			return errAway
		}
		return nil
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c", Interface: "eth0"}); !errors.Is(err, errAway) {
		t.Fatalf("release: %v", err)
	}
	store.After, store.Before = nil, nil
	if err := store.Delete(t.Context(), store.All()[0]); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := a.ReadUnread(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := allocate(t.Context(), a, r); err != nil {
		t.Fatal(err)
	}
	if old := a.HeldFor(time.Second); len(old) != 0 {
		t.Errorf("the new lease counts as old: %v", old)
	}
}

// Blocks are labelled with their region, so all agents must agree.
func TestRegionsHave256Blocks(t *testing.T) {
	for addr, want := range map[string]string{"10.0.31.255": "10.0.16.0/20", "fd00::1fff": "fd00::1000/116"} {
		if got := alloc.RegionOf(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("region of %s: %s, want %s", addr, got, want)
		}
	}
}

// Multus hot plug does DEL and ADD with one container and interface.
func TestLeaseAfterReleaseIsYoung(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16")
	a := newAllocatorWith(t, alloc.Config{Node: "n1", Observer: &conflicts{}, SearchEvery: -1, Now: func() time.Time { return now }}, &ipamtest.Store{}, p)
	t.Cleanup(a.Close)
	for range 2 {
		if _, err := allocate(t.Context(), a, request("n1", "c", want("eth0", 4, "p"))); err != nil {
			t.Fatal(err)
		}
		if old := a.HeldFor(time.Second); len(old) != 0 {
			t.Errorf("the new lease counts as old: %v", old)
		}
		now = now.Add(time.Minute)
		if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c", Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
}

// A conflict proves that the release was not written. So the lease must come back when
// a user deletes the block.
func TestConflictKeepsLease(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	if _, err := allocate(t.Context(), a, request("n1", "c", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			return alloc.ErrConflict
		}
		return errAway
	}
	if err := a.Release(t.Context(), at); err == nil {
		t.Fatal("a release with a conflict succeeded")
	}
	store.Before = nil
	if err := errors.Join(store.Delete(t.Context(), store.All()[0]), a.ReadUnread(t.Context())); err != nil {
		t.Fatal(err)
	}
	if held := a.Attached(at); len(held) != 1 || !a.HasLost() {
		t.Errorf("the node knows %v, lost: %t", held, a.HasLost())
	}
}

// Another node may have given the address to a pod of the owner.
func TestOwnersPodWaitsForUnreadBlock(t *testing.T) {
	owner := lease.ParseOwner("Pod/default/web-0")
	for name, tc := range map[string]struct {
		owner lease.Owner
		ready bool
	}{"same owner": {owner, false}, "another owner": {lease.ParseOwner("Pod/default/web-1"), true}} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			a := newAllocator(t, "n1", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.47"))
			t.Cleanup(a.Close)
			first := request("n1", "first", want("eth0", 4, "p"))
			first.FixedFor = owner
			if _, err := allocate(t.Context(), a, first); err != nil {
				t.Fatal(err)
			}
			bad := store.All()[0].Base
			store.Before = func(_ string, base netip.Addr) error {
				if base == bad {
					return errAway
				}
				return nil
			}
			if err := a.Release(t.Context(), lease.Attachment{ContainerID: "first", Interface: "eth0"}); !errors.Is(err, errAway) {
				t.Fatalf("release: %v", err)
			}
			next := request("n1", "next", want("eth0", 4, "p"))
			next.FixedFor = tc.owner
			if _, err := allocate(t.Context(), a, next); errors.Is(err, alloc.ErrNotReady) == tc.ready {
				t.Errorf("got %v, want it ready: %t", err, tc.ready)
			}
		})
	}
}
