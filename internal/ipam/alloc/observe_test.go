package alloc_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// What others do to a block while the answer to our write of it is on its way must
// not be lost, whichever way it is told.
func TestEventDuringWriteIsReadAfterwards(t *testing.T) {
	for name, tell := range map[string]func(a *alloc.Allocator, b lease.Block){
		"observed": func(a *alloc.Allocator, b lease.Block) { a.Observe(b) },
		"asked whether it is known": func(a *alloc.Allocator, b lease.Block) {
			if !a.Knows(b.Base, b.Version) {
				t.Error("it would be read at once, and the answer ignored")
			}
		},
		"oldest first": func(a *alloc.Allocator, b lease.Block) {
			a.Knows(b.Base, "1")
			a.Observe(b)
		},
		"newest first": func(a *alloc.Allocator, b lease.Block) {
			a.Observe(b)
			a.Knows(b.Base, "1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
			t.Cleanup(a.Close)
			other := netip.MustParseAddr("10.0.0.31")
			version := ""
			store.After = func(base netip.Addr) error {
				store.After = nil
				b, err := store.Get(t.Context(), base)
				if err != nil {
					return err
				}
				b = b.With(lease.Lease{Addr: other, State: lease.InUse, Pool: "p", Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: "other", Interface: "eth0"}, Node: "b"}})
				if b.Version, err = store.Put(t.Context(), b); err != nil {
					return err
				}
				version = b.Version
				tell(a, b)
				return nil
			}
			if _, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
			// Another batch comes after the end of the first.
			if err := a.Release(t.Context(), lease.Attachment{ContainerID: "nobody", Interface: "eth0"}); err != nil {
				t.Fatal(err)
			}
			if outdated := a.Outdated(map[netip.Addr]string{inet.BlockOf(other): version}, version); len(outdated) > 0 {
				t.Errorf("the allocator does not know version %s, which it was told of", version)
			}
		})
	}
}

func TestListNamesOutdatedBlocks(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	grants, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Get(t.Context(), inet.BlockOf(grants[0].Addr))
	if err != nil {
		t.Fatal(err)
	}
	unknown := netip.MustParseAddr("10.0.0.0")
	for name, tt := range map[string]struct {
		listed map[netip.Addr]string
		want   []netip.Addr
	}{
		"the same version":  {map[netip.Addr]string{b.Base: b.Version}, nil},
		"a newer version":   {map[netip.Addr]string{b.Base: "9"}, []netip.Addr{b.Base}},
		"an older version":  {map[netip.Addr]string{b.Base: "0"}, []netip.Addr{b.Base}},
		"the block is gone": {nil, []netip.Addr{b.Base}},
		"an unknown block":  {map[netip.Addr]string{b.Base: b.Version, unknown: "3"}, []netip.Addr{unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := a.Outdated(tt.listed, b.Version); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
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
	if _, err := allocate(t.Context(), a, r); err == nil {
		t.Fatal("a write without an answer counted as done")
	}
	if _, err := allocate(t.Context(), a, r); !errors.Is(err, alloc.ErrNotReady) {
		t.Errorf("while the block cannot be read: %v, want not ready", err)
	}
	unreadable.Store(false)
	if _, err := allocate(t.Context(), a, r); err != nil {
		t.Fatal(err)
	}
	if leases := held(t, store); len(leases) != 1 {
		t.Errorf("leases %v, want one", leases)
	}
}
