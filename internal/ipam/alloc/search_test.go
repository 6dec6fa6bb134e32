package alloc_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// A pool that has one address left is exhausted for a pod that wants two. Nodes
// begin their search in different regions, so there are several.
func TestSearchContinuesWithTooFewAddresses(t *testing.T) {
	for n := range 8 {
		store := &ipamtest.Store{}
		p := rangePool(t, "p", "10.0.0.0/16", "10.0.0.16", "10.0.16.0-10.0.16.1", "10.0.32.0")
		other, node := newAllocator(t, "other", store, p), fmt.Sprintf("node-%d", n)
		t.Cleanup(other.Close)
		for i := range 4 {
			if _, err := allocate(t.Context(), other, request("other", fmt.Sprint(i), want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
		}
		a := newAllocator(t, node, store, p)
		t.Cleanup(a.Close)
		two := request(node, "two", want("eth0", 4, "p"), want("net1", 4, "p"))
		if _, err := allocate(t.Context(), a, two); err == nil {
			t.Fatal("got addresses of a pool without any")
		}
		// The node knows all blocks now, and not what happens to them.
		free := func(addr string) {
			for container := range 4 {
				at := lease.Attachment{ContainerID: fmt.Sprint(container), Interface: "eth0"}
				if held := other.Attached(at); len(held) == 1 && held[0].Addr.String() == addr {
					if err := other.Release(t.Context(), at); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		free("10.0.0.16")
		if _, err := allocate(t.Context(), a, request(node, "one", want("eth0", 4, "p"))); err != nil {
			t.Fatal(err)
		}
		if err := a.Release(t.Context(), lease.Attachment{ContainerID: "one", Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
		free("10.0.32.0")
		if _, err := allocate(t.Context(), a, two); err != nil {
			t.Errorf("%s: %v", node, err)
		}
	}
}

// Nearly all blocks of a large pool exist and are full, and the node knows none.
func TestNewNodeFindsLastAddresses(t *testing.T) {
	const regions = 200
	store := &ipamtest.Store{}
	var ranges []string
	for i := range regions {
		ranges = append(ranges, fmt.Sprintf("10.%d.%d.16-10.%d.%d.31", i/16, i%16*16, i/16, i%16*16))
	}
	p := rangePool(t, "p", "10.0.0.0/8", ranges...)
	left := 0
	for base := range p.IPs.Blocks() {
		b := lease.Block{Base: base, Node: "other"}
		for i := range inet.BlockSize {
			b.Leases = append(b.Leases, lease.Lease{
				Addr: inet.BlockAddr(base, i), State: lease.InUse, Pool: "p", Since: time.Unix(0, 0),
				Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: fmt.Sprint(base, i), Interface: "eth0"}, Node: "other"},
			})
		}
		if left < 2 {
			left++
			b.Leases = b.Leases[1:]
		}
		if _, err := store.Put(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	a := newAllocator(t, "new", store, p)
	t.Cleanup(a.Close)
	for i := range left {
		if _, err := allocate(t.Context(), a, request("new", fmt.Sprint(i), want("eth0", 4, "p"))); err != nil {
			t.Fatalf("address %d of the last %d: %v", i+1, left, err)
		}
	}
	if lost := store.Count("conflict"); lost > 16 {
		t.Errorf("%d conflicts to learn of %d regions", lost, regions)
	}
}

// What other nodes have is read once a second for all pods that wait for an address
// of a full pool, and each knows what was free when it asked.
func TestWaitingPodsShareRegionReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &ipamtest.Store{}
		p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
		other := newAllocator(t, "other", store, p)
		t.Cleanup(other.Close)
		for i := range inet.BlockSize {
			if _, err := allocate(t.Context(), other, request("other", fmt.Sprint(i), want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
		}
		a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: &conflicts{}}, store, p)
		t.Cleanup(a.Close)
		allocate := func(container string) error {
			_, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p")))
			return err
		}
		if err := allocate("first"); !errors.As(err, new(*lease.ExhaustedError)) {
			t.Fatalf("got %v, want an ExhaustedError", err)
		}
		read, began := store.Count("list"), time.Now()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if err := allocate(fmt.Sprint("waits-", i)); !errors.As(err, new(*lease.ExhaustedError)) {
					t.Errorf("got %v, want an ExhaustedError", err)
				}
			})
		}
		wg.Wait()
		if reads, took := store.Count("list")-read, time.Since(began); reads > 1 || took > alloc.DefaultSearchEvery {
			t.Errorf("100 pods that came together: %d reads in %s", reads, took)
		}
		read, began = store.Count("list"), time.Now()
		for time.Since(began) < 10*time.Second {
			time.Sleep(100 * time.Millisecond)
			if err := allocate("comes"); !errors.As(err, new(*lease.ExhaustedError)) {
				t.Fatalf("got %v, want an ExhaustedError", err)
			}
		}
		if reads := store.Count("list") - read; reads > 10 {
			t.Errorf("pods that came one after the other: %d reads in 10 s", reads)
		}
		if err := other.Release(t.Context(), lease.Attachment{ContainerID: "0", Interface: "eth0"}); err != nil {
			t.Fatal(err)
		}
		if err := allocate("last"); err != nil {
			t.Errorf("after a release elsewhere: %v", err)
		}
	})
}

// A pod that gets no address because blocks are unreadable must try again, not give up.
func TestUnreadableBlocksAreNotFull(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16"))
	t.Cleanup(a.Close)
	if _, err := allocate(t.Context(), a, request("a", "first", want("eth0", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "list" {
			return errAway
		}
		return nil
	}
	if _, err := allocate(t.Context(), a, request("a", "second", want("eth0", 4, "p"))); !errors.Is(err, errAway) {
		t.Errorf("got %v, want the error of the read", err)
	}
}
