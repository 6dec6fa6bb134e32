package alloc_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// refusing refuses the writes of blocks for good.
func refusing(store *ipamtest.Store, bases ...string) {
	store.Before = func(operation string, base netip.Addr) error {
		for _, refused := range bases {
			if operation == "put" && base.String() == refused {
				return fmt.Errorf("%w: too large", alloc.ErrRefused)
			}
		}
		return nil
	}
}

func TestRefusedBlockIsAvoided(t *testing.T) {
	store := &ipamtest.Store{}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31", "10.0.0.48-10.0.0.63")
	a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: &conflicts{}, SearchEvery: -1, Now: func() time.Time { return now }}, store, p)
	t.Cleanup(a.Close)
	first, err := allocate(t.Context(), a, request("a", "c0", want("eth0", 4, "p")))
	if err != nil {
		t.Fatal(err)
	}
	base := netip.PrefixFrom(first[0].Addr, 28).Masked().Addr()
	refusing(store, base.String())
	for i := range 4 {
		puts := store.Count("put")
		grants, err := allocate(t.Context(), a, request("a", fmt.Sprint("c", i+1), want("eth0", 4, "p")))
		if err != nil || netip.PrefixFrom(grants[0].Addr, 28).Masked().Addr() == base {
			t.Fatalf("pod %d got %v, %v", i, grants, err)
		}
		if n := store.Count("put") - puts; n != 1 {
			t.Errorf("pod %d: %d accepted writes", i, n)
		}
		if err := a.Read(t.Context(), base); err != nil { // a read does not make it writable
			t.Fatal(err)
		}
	}
	// The lease in the block stays known, and the API server gets its release.
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c0", Interface: "eth0"}); !errors.Is(err, alloc.ErrRefused) {
		t.Errorf("release: %v, want the refusal", err)
	}
	store.Before = nil
	now = now.Add(2 * time.Minute)
	granted := map[netip.Addr]bool{}
	for i := range 27 {
		grants, err := allocate(t.Context(), a, request("a", fmt.Sprint("late", i), want("eth0", 4, "p")))
		if err != nil {
			t.Fatalf("pod %d after two minutes: %v", i, err)
		}
		granted[netip.PrefixFrom(grants[0].Addr, 28).Masked().Addr()] = true
	}
	if !granted[base] {
		t.Errorf("the block is still avoided after two minutes")
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "c0", Interface: "eth0"}); err != nil {
		t.Errorf("release: %v", err)
	}
}

// Each block refuses a pod with too long a name. The API server gets few writes of it.
func TestRefusedRequestStopsSoon(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/20", "10.0.0.16-10.0.15.255"))
	t.Cleanup(a.Close)
	_, err := allocate(t.Context(), a, request("a", "c", want(strings.Repeat("x", 16), 4, "p")))
	if n := store.Count("put"); !errors.Is(err, alloc.ErrRefused) || n != 2 {
		t.Errorf("got %v after %d writes, want a refusal after 2", err, n)
	}
}

// An avoided block that does not exist leaves nothing behind in memory.
func TestAvoidedBlockIsForgotten(t *testing.T) {
	store := &ipamtest.Store{}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.47")
	a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: &conflicts{}, SearchEvery: -1, Now: func() time.Time { return now }}, store, p)
	t.Cleanup(a.Close)
	refusing(store, "10.0.0.16")
	if _, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p"), want("net1", 4, "p"))); err != nil {
		t.Fatal(err)
	}
	for i := range inet.BlockSize - 2 { // fill the other block, so that the refused one is tried, too
		if _, err := allocate(t.Context(), a, request("a", fmt.Sprint("c", i), want("eth0", 4, "p"))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := allocate(t.Context(), a, request("a", "last", want("eth0", 4, "p"))); err == nil {
		t.Fatal("got an address of the refused block")
	}
	now = now.Add(2 * time.Minute)
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "nobody", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if n := a.KnownBlocks(); n != 1 {
		t.Errorf("the node knows %d blocks, want the one that exists", n)
	}
}

func TestDeletedBlockStaysAvoided(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	puts := 0 // one block, so one at a time
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			puts++
			return alloc.ErrRefused
		}
		return nil
	}
	add := func(container string) {
		if _, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p"))); err == nil {
			t.Fatalf("%s got an address of a block that cannot be written", container)
		}
	}
	add("first")
	before := puts
	a.ObserveDeleted(netip.MustParseAddr("10.0.0.16"), "1")
	add("second")
	if puts != before {
		t.Errorf("%d writes of the avoided block", puts-before)
	}
}

// The API server refused one content of a block. After a write that it accepts, the block
// serves again.
func TestAcceptedWriteEndsAvoidance(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	t.Cleanup(a.Close)
	add := func(container string) error {
		_, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p")))
		return err
	}
	if err := add("first"); err != nil {
		t.Fatal(err)
	}
	refusing(store, "10.0.0.16")
	if err := add("second"); err == nil {
		t.Fatal("the refused write succeeded")
	}
	store.Before = nil
	if err := add("third"); err == nil {
		t.Fatal("the block is not avoided")
	}
	if err := a.Release(t.Context(), lease.Attachment{ContainerID: "first", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if err := add("fourth"); err != nil {
		t.Errorf("after an accepted write: %v", err)
	}
}

func TestRefusedRequestDoesNotHarmOthers(t *testing.T) {
	store := &ipamtest.Store{}
	a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: &conflicts{}, SearchEvery: -1}, store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.63"))
	t.Cleanup(a.Close)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			once.Do(func() { close(entered); <-leave })
		}
		return nil
	}
	var wg sync.WaitGroup
	start := func(container, ifname string, fails bool) {
		wg.Go(func() {
			_, err := allocate(t.Context(), a, request("a", container, want(ifname, 4, "p")))
			if errors.Is(err, alloc.ErrRefused) != fails || err != nil && !fails {
				t.Errorf("%s: %v", container, err)
			}
		})
	}
	start("first", "eth0", false)
	<-entered
	for i := range 8 {
		start(fmt.Sprint("good", i), "eth0", false)
	}
	start("bad", strings.Repeat("x", 16), true) // the store refuses the name
	awaitQueued(a, 9)
	close(leave)
	wg.Wait()
	if n := len(held(t, store)); n != 9 {
		t.Errorf("%d leases, want 9", n)
	}
	// The fault was the request's: no block is avoided.
	for i := range 39 {
		if _, err := allocate(t.Context(), a, request("a", fmt.Sprint("rest", i), want("eth0", 4, "p"))); err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
	}
}
