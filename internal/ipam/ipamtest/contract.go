package ipamtest

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
)

// OrderedBlocks is a store with ordered versions.
type OrderedBlocks interface {
	alloc.Blocks
	// Delete removes the block at its version, as the controller does.
	Delete(ctx context.Context, b lease.Block) error
	Older(a, b string) bool
}

// Contract tests the requirements of every block store. fresh returns an empty store.
func Contract(t *testing.T, fresh func(t *testing.T) OrderedBlocks) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, OrderedBlocks)
	}{
		{"BlockComesBackAsItWasPut", comesBack},
		{"UnknownBlockIsNotFound", unknown},
		{"SecondCreateConflicts", secondCreate},
		{"OutdatedUpdateConflicts", outdatedUpdate},
		{"UpdateOfADeletedBlockConflicts", updateOfDeleted},
		{"VersionsGrow", versionsGrow},
		{"OfNodeFindsBlocksCreatedAndHeld", ofNode},
		{"FixedForFindsWhatIsInUseAndRetained", fixedFor},
		{"InRegionFindsAllOfARegion", inRegion},
		{"OfManyConcurrentWritersOneWins", oneWins},
		{"TooLongTextIsRefused", tooLong},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
}

var since = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// blockAt returns a block of the node with one lease of the holder for the first address.
func blockAt(base, node, holder string) lease.Block {
	return lease.Block{Base: addr(base), Node: node, Leases: []lease.Lease{{
		Addr: addr(base), State: lease.InUse, Pool: "p",
		Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: "c1", Interface: "eth0"}, Pod: lease.ParsePodKey("default/a"), PodUID: "u1", Node: holder},
		Since:  since,
	}}}
}

func put(t *testing.T, s alloc.Blocks, b lease.Block) lease.Block {
	t.Helper()
	version, err := s.Put(t.Context(), b)
	if err != nil {
		t.Fatalf("put %s: %v", b.Base, err)
	}
	b.Version = version
	return b
}

func wantConflict(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("%s: got %v, want a conflict", what, err)
	}
}

func comesBack(t *testing.T, s OrderedBlocks) {
	full := lease.Block{Base: addr("2001:db8::10"), Node: "n1"}
	states := []lease.State{lease.InUse, lease.Retained, lease.Released, lease.Quarantined, lease.Withheld}
	for i := range inet.BlockSize {
		l := lease.Lease{Addr: inet.BlockAddr(full.Base, i), State: states[i%len(states)], Since: since.Add(time.Duration(i) * time.Second)}
		switch l.State {
		case lease.InUse, lease.Retained:
			l.Pool = "p"
			l.Holder = lease.Holder{Attachment: lease.Attachment{ContainerID: "c", Interface: "net1"}, Pod: lease.ParsePodKey("ns/web-0"), PodUID: "u", Node: "n2", FixedFor: lease.ParseOwner("Pod/ns/web-0")}
		case lease.Quarantined:
			l.Until, l.MAC = since.Add(time.Hour), "02:00:00:00:00:01"
		case lease.Withheld:
			l.Pool, l.WithheldBy = "p", "aws"
		}
		full.Leases = append(full.Leases, l)
	}
	full.Former = []lease.Former{{
		Addr: full.Base, Holder: lease.Holder{
			Attachment: lease.Attachment{ContainerID: "c0", Interface: "eth0"}, Pod: lease.PodKey{Namespace: "ns", Name: "web-0"}, PodUID: "u0", Node: "n3",
			FixedFor: lease.Owner{Kind: lease.KindPod, Namespace: "ns", Name: "web-0"},
		},
	}}
	for _, b := range []lease.Block{full, {Base: addr("192.0.2.16"), Node: "n1"}} {
		b = put(t, s, b)
		got, err := s.Get(t.Context(), b.Base)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, b)
		}
	}
}

func unknown(t *testing.T, s OrderedBlocks) {
	if _, err := s.Get(t.Context(), addr("192.0.2.0")); !errors.Is(err, alloc.ErrNotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func secondCreate(t *testing.T, s OrderedBlocks) {
	b := blockAt("192.0.2.0", "n1", "n1")
	put(t, s, b)
	_, err := s.Put(t.Context(), b)
	wantConflict(t, "second create", err)
}

func outdatedUpdate(t *testing.T, s OrderedBlocks) {
	first := put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	second := first
	second.Leases = nil
	put(t, s, second)
	_, err := s.Put(t.Context(), first)
	wantConflict(t, "update of the former version", err)
	if got, err := s.Get(t.Context(), first.Base); err != nil || len(got.Leases) != 0 {
		t.Errorf("the lost update left %+v, %v", got, err)
	}
}

func updateOfDeleted(t *testing.T, s OrderedBlocks) {
	b := put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	if err := s.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), b)
	wantConflict(t, "update of a deleted block", err)
}

func versionsGrow(t *testing.T, s OrderedBlocks) {
	b := put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	old := b.Version
	b.Leases = nil
	b = put(t, s, b)
	if !s.Older(old, b.Version) || s.Older(b.Version, old) || s.Older(old, old) {
		t.Errorf("versions %q and %q are out of order", old, b.Version)
	}
}

func bases(blocks []lease.Block) []string {
	names := []string{}
	for _, b := range blocks {
		names = append(names, b.Base.String())
	}
	slices.Sort(names)
	return names
}

func ofNode(t *testing.T, s OrderedBlocks) {
	const long = "a-node-whose-name-is-longer-than-a-label-may-be.in-a-domain-that-has-a-long-name-as-well.example.org"
	put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	put(t, s, blockAt("192.0.2.16", "n2", "n1"))
	put(t, s, blockAt("192.0.2.32", "n2", "n2"))
	put(t, s, blockAt("192.0.2.48", "n1", "n2"))
	put(t, s, blockAt("2001:db8::", long, long))
	for node, want := range map[string][]string{
		"n1": {"192.0.2.0", "192.0.2.16", "192.0.2.48"},
		"n2": {"192.0.2.16", "192.0.2.32", "192.0.2.48"},
		long: {"2001:db8::"},
		"n3": {},
	} {
		got, err := s.OfNode(t.Context(), node)
		if err != nil || !slices.Equal(bases(got), want) {
			t.Errorf("node %s: got %v, %v; want %v", node, bases(got), err, want)
		}
	}
}

func fixedFor(t *testing.T, s OrderedBlocks) {
	owned := func(base string, state lease.State, owner string) lease.Block {
		b := blockAt(base, "n1", "n1")
		b.Leases[0].State, b.Leases[0].FixedFor = state, lease.ParseOwner(owner)
		return b
	}
	put(t, s, owned("192.0.2.0", lease.InUse, "Pod/ns/web-0"))
	put(t, s, owned("192.0.2.16", lease.Retained, "Pod/ns/web-0"))
	put(t, s, owned("192.0.2.32", lease.Retained, "VirtualMachine/ns/web-0"))
	put(t, s, blockAt("192.0.2.48", "n1", "n1"))
	given := put(t, s, owned("192.0.2.64", lease.Retained, "Pod/ns/web-0"))
	given.Leases = nil
	put(t, s, given)
	for owner, want := range map[string][]string{
		"Pod/ns/web-0":            {"192.0.2.0", "192.0.2.16"},
		"VirtualMachine/ns/web-0": {"192.0.2.32"},
		"Pod/ns/web-1":            {},
	} {
		got, err := s.FixedFor(t.Context(), lease.ParseOwner(owner))
		if err != nil || !slices.Equal(bases(got), want) {
			t.Errorf("owner %s: got %v, %v; want %v", owner, bases(got), err, want)
		}
	}
}

func inRegion(t *testing.T, s OrderedBlocks) {
	var want []string
	// More than one page of any store.
	for i := range 150 {
		base := netip.AddrFrom4([4]byte{10, 0, byte(i >> 4), byte(i << 4)})
		put(t, s, lease.Block{Base: base, Node: "n1"})
		want = append(want, base.String())
	}
	put(t, s, lease.Block{Base: addr("10.0.16.0"), Node: "n1"})
	slices.Sort(want)
	got, err := s.InRegion(t.Context(), alloc.RegionOf(addr("10.0.3.7")))
	if err != nil || !slices.Equal(bases(got), want) {
		t.Errorf("got %d blocks, %v; want %d", len(got), err, len(want))
	}
}

func oneWins(t *testing.T, s OrderedBlocks) {
	b := put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { _, errs[i] = s.Put(context.WithoutCancel(t.Context()), b) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, alloc.ErrConflict) {
			t.Errorf("got %v, want a conflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers won", won, writers)
	}
}

func tooLong(t *testing.T, s OrderedBlocks) {
	stored := put(t, s, blockAt("192.0.2.0", "n1", "n1"))
	for what, change := range map[string]func(*lease.Lease){
		"interface of 16 bytes":        func(l *lease.Lease) { l.Interface = strings.Repeat("x", 16) },
		"interface of 250 kB":          func(l *lease.Lease) { l.Interface = strings.Repeat("x", 250_000) },
		"interface of 8 MB":            func(l *lease.Lease) { l.Interface = strings.Repeat("x", 8_000_000) },
		"container ID of 129 bytes":    func(l *lease.Lease) { l.ContainerID = strings.Repeat("c", 129) },
		"pool with a name of 1 kB":     func(l *lease.Lease) { l.Pool = strings.Repeat("p", 1000) },
		"pod UID of 129 bytes":         func(l *lease.Lease) { l.PodUID = strings.Repeat("u", 129) },
		"hardware address of 1000 kB":  func(l *lease.Lease) { l.MAC = strings.Repeat("0", 1_000_000) },
		"owner with a name of 1000 kB": func(l *lease.Lease) { l.FixedFor.Kind, l.FixedFor.Name = lease.KindPod, strings.Repeat("o", 1_000_000) },
	} {
		changed := stored
		changed.Leases = slices.Clone(stored.Leases)
		change(&changed.Leases[0])
		if _, err := s.Put(t.Context(), changed); !errors.Is(err, alloc.ErrRefused) || errors.Is(err, alloc.ErrConflict) {
			t.Errorf("%s: got %.300v, want a refusal", what, err)
		}
	}
	if got, err := s.Get(t.Context(), stored.Base); err != nil || !reflect.DeepEqual(got, stored) {
		t.Errorf("the refused writes left %+v, %v", got, err)
	}
}
