package ipam_test

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// What others do to a block while the answer to our write of it is on its way must
// not be lost, whichever way it is told.
func TestEventDuringWriteIsReadAfterwards(t *testing.T) {
	for name, tell := range map[string]func(a *ipam.Allocator, b lease.Block){
		"observed": func(a *ipam.Allocator, b lease.Block) { a.Observe(b) },
		"asked whether it is known": func(a *ipam.Allocator, b lease.Block) {
			if !a.Knows(b.Base, b.Version) {
				t.Error("it would be read at once, and the answer ignored")
			}
		},
		"newest first": func(a *ipam.Allocator, b lease.Block) {
			a.Observe(b)
			a.Knows(b.Base, "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
			t.Cleanup(a.Close)
			at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
			store.After = func(base netip.Addr) error {
				store.After = nil
				b, err := store.Get(t.Context(), base)
				if err != nil {
					return err
				}
				b, _ = b.Release(at, b.Leases[0].Since)
				if b.Version, err = store.Put(t.Context(), b); err != nil {
					return err
				}
				tell(a, b)
				return nil
			}
			if _, err := a.Allocate(t.Context(), request("a", "c", want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
			// Another batch comes after the end of the first.
			if err := a.Release(t.Context(), lease.Attachment{ContainerID: "nobody", Interface: "eth0"}); err != nil {
				t.Fatal(err)
			}
			if leases := a.Attached(at); len(leases) != 0 {
				t.Errorf("the allocator believes in %v, which another writer has ended", leases)
			}
		})
	}
}

func TestObserveAllRemovesMissingBlock(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	grants, err := a.Allocate(t.Context(), request("a", "c", want("eth0", 4, "p")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Get(t.Context(), inet.BlockOf(grants[0].Addr))
	if err != nil {
		t.Fatal(err)
	}
	at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
	a.ObserveAll(map[netip.Addr]bool{b.Base: true}, "9")
	a.ObserveAll(nil, "0") // from before the block was written
	if len(a.Attached(at)) != 1 {
		t.Fatal("a list that has the block, or is older than it, made the allocator forget it")
	}
	a.ObserveAll(nil, "9")
	if len(a.Attached(at)) != 0 {
		t.Error("a block that is gone is still known")
	}
}

func TestRepeatedAddWaitsForUnknownBlock(t *testing.T) {
	store := &ipamtest.Store{}
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.47")
	away := errors.New("connection refused")
	var unreadable atomic.Bool
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "get" && unreadable.Load() {
			return away
		}
		return nil
	}
	store.After = func(netip.Addr) error {
		store.After = nil
		unreadable.Store(true)
		return away
	}
	a := newAllocator(t, "a", store, p)
	t.Cleanup(a.Close)
	r := request("a", "c", want("eth0", 4, "p"))
	if _, err := a.Allocate(t.Context(), r); err == nil {
		t.Fatal("a write without an answer counted as done")
	}
	if _, err := a.Allocate(t.Context(), r); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("while the block cannot be read: %v, want not ready", err)
	}
	unreadable.Store(false)
	if _, err := a.Allocate(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if leases := held(t, store); len(leases) != 1 {
		t.Errorf("leases %v, want one", leases)
	}
}
