package lease

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
)

// store is a block store with optimistic concurrency, like the API server.
type store struct {
	blocks map[netip.Addr]Block
	writes int
}

func (s *store) write(b Block) (Block, error) {
	if stored, ok := s.blocks[b.Base]; ok != (b.Version != "") || ok && stored.Version != b.Version {
		return Block{}, errConflict
	}
	s.writes++
	b.Version = fmt.Sprint(s.writes)
	s.blocks[b.Base] = b
	return b, nil
}

// world has several nodes with a common store. It records the addresses reported to
// pods. Each node knows a part of the store.
type world struct {
	store   store
	now     time.Time
	pools   map[string]inet.Set
	nodes   []*Index
	granted map[netip.Addr]Holder // confirmed to a container and not released
	// reserved are the reserved addresses known to each node.
	reserved []inet.Set
	// busy is the node before its write, or -1. Other nodes write in between.
	busy int
}

func drawWorld(t *rapid.T) *world {
	w := &world{
		store:   store{blocks: map[netip.Addr]Block{}},
		now:     start,
		pools:   map[string]inet.Set{},
		granted: map[netip.Addr]Holder{},
		busy:    -1,
	}
	// Pools have neighboring addresses, so they share blocks. Some overlap: admission
	// forbids this but cannot prevent it.
	for _, family := range []struct{ name, base string }{{"v4", "10.0.0.0"}, {"v6", "fd00::ff00"}} {
		base := netip.MustParseAddr(family.base)
		for i := range rapid.IntRange(1, 3).Draw(t, "pools") {
			var ranges []netipx.IPRange
			for range rapid.IntRange(1, 3).Draw(t, "ranges") {
				from := rapid.IntRange(0, 60).Draw(t, "from")
				to := from + rapid.IntRange(0, 25).Draw(t, "length")
				ranges = append(ranges, netipx.IPRangeFrom(plus(base, from), plus(base, to)))
			}
			w.pools[fmt.Sprint(family.name, i)] = inet.Of(ranges...)
		}
	}
	w.reserved = make([]inet.Set, rapid.IntRange(1, 3).Draw(t, "nodes"))
	for i := range w.reserved {
		w.nodes = append(w.nodes, w.newIndex(i))
	}
	return w
}

func plus(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

func (w *world) newIndex(node int) *Index {
	x := NewIndex(Options{Node: fmt.Sprintf("node-%d", node)})
	for _, name := range slices.Sorted(maps.Keys(w.pools)) {
		x.SetPool(name, w.usable(node, name))
	}
	return x
}

// usable returns the usable addresses of a pool on a node.
func (w *world) usable(node int, pool string) inet.Set { return w.pools[pool].Minus(w.reserved[node]) }

// reserve changes the reserved addresses known to a node.
func (w *world) reserve(t *rapid.T, node int) {
	var reserved []inet.Set
	for _, name := range slices.Sorted(maps.Keys(w.pools)) {
		addrs := addrsOf(w.pools[name])
		reserved = append(reserved, inet.OfAddrs(rapid.SliceOfN(rapid.SampledFrom(addrs), 0, len(addrs)).Draw(t, "reserved")...))
	}
	w.reserved[node] = inet.Union(reserved...)
	for name := range w.pools {
		w.nodes[node].SetPool(name, w.usable(node, name))
	}
}

// meanwhile may let another node write before the pending write of a node.
func (w *world) meanwhile(t *rapid.T, node int) {
	if w.busy >= 0 || rapid.IntRange(0, 3).Draw(t, "meanwhile") > 0 {
		return
	}
	w.busy = node
	defer func() { w.busy = -1 }()
	other := rapid.IntRange(0, len(w.nodes)-1).Draw(t, "other")
	if other != node {
		w.add(t, other, []Request{drawRequest(t, w, other)})
		return
	}
	w.reclaim(t)
}

// reclaim ends a lease never reported to a container, old enough that its ADD cannot
// be in progress.
func (w *world) reclaim(t *rapid.T) {
	for _, b := range slices.SortedFunc(maps.Values(w.store.blocks), func(a, b Block) int { return a.Base.Compare(b.Base) }) {
		for _, l := range b.Leases {
			if _, told := w.granted[l.Addr]; told || l.State != InUse || w.now.Sub(l.Since) < time.Minute {
				continue
			}
			swept, ok := b.Reclaim(l, w.now)
			if !ok {
				t.Fatalf("%+v cannot be reclaimed from %+v", l, b)
			}
			if _, err := w.write(t, swept); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func (w *world) sync(x *Index) {
	for _, b := range slices.Collect(x.Blocks()) {
		if _, ok := w.store.blocks[b.Base]; !ok {
			x.Delete(b.Base)
		}
	}
	for _, b := range w.store.blocks {
		x.Put(b, w.now)
	}
}

func (w *world) reload(x *Index, base netip.Addr) {
	if b, ok := w.store.blocks[base]; ok {
		x.Put(b, w.now)
	} else {
		x.Delete(base)
	}
}

func drawRequest(t *rapid.T, w *world, node int) Request {
	pod := rapid.IntRange(0, 12).Draw(t, "pod")
	incarnation := rapid.IntRange(0, 1).Draw(t, "incarnation")
	r := Request{
		Pod:         PodKey{"ns", fmt.Sprint(pod)},
		PodUID:      fmt.Sprintf("uid-%d-%d", pod, incarnation),
		ContainerID: fmt.Sprintf("c-%d-%d-%d", pod, incarnation, rapid.IntRange(0, 1).Draw(t, "sandbox")),
		Node:        fmt.Sprintf("node-%d", node),
	}
	if pod%3 == 0 {
		r.FixedFor = Owner{KindPod, r.Pod.Namespace, r.Pod.Name}
		if rapid.Bool().Draw(t, "may replace") {
			r.Replaces = []string{fmt.Sprintf("uid-%d-%d", pod, 1-incarnation)}
		}
	}
	names := slices.Sorted(maps.Keys(w.pools))
	for i := range rapid.IntRange(1, 2).Draw(t, "interfaces") {
		for _, version := range []inet.Family{4, 6} {
			var pools []string
			for _, name := range rapid.Permutation(names).Draw(t, "order") {
				if name[1] == byte('0'+version) {
					pools = append(pools, name)
				}
			}
			n := rapid.IntRange(1, len(pools)).Draw(t, "wanted pools")
			r.Wants = append(r.Wants, Want{fmt.Sprint("eth", i), version, pools[:n]})
		}
	}
	return r
}

// add runs requests on a node like an agent: choose, write, and after a conflict
// reload and choose again. It may crash between any two writes.
func (w *world) add(t *rapid.T, node int, requests []Request) {
	x := w.nodes[node]
	for attempt := 0; ; attempt++ {
		if attempt > 20 {
			t.Fatalf("no progress after %d conflicts", attempt)
		}
		plan := x.Choose(w.now, requests...)
		w.checkPlan(t, node, requests, plan)
		failed := map[netip.Addr]bool{}
		for _, b := range plan.Writes {
			w.meanwhile(t, node)
			if rapid.IntRange(0, 19).Draw(t, "crash") == 0 {
				w.nodes[node] = w.newIndex(node)
				return
			}
			if written, err := w.write(t, b); err == nil {
				x.Put(written, w.now)
			} else {
				failed[b.Base] = true
				w.reload(x, b.Base)
			}
		}
		for _, result := range plan.Results {
			for _, g := range result.Grants {
				known, _ := x.Block(inet.BlockOf(g.Addr))
				if stored := w.store.blocks[inet.BlockOf(g.Addr)]; g.Held && stored.Version != known.Version {
					failed[stored.Base] = true
					w.reload(x, inet.BlockOf(g.Addr))
				}
			}
		}
		var again []Request
		for i, result := range plan.Results {
			if slices.ContainsFunc(result.Grants, func(g Grant) bool { return g.Held && failed[inet.BlockOf(g.Addr)] }) || slices.ContainsFunc(result.Blocks, func(base netip.Addr) bool { return failed[base] }) {
				again = append(again, requests[i])
			} else if result.Err == nil {
				w.confirm(t, requests[i], result.Grants)
			}
		}
		if len(again) == 0 {
			return
		}
		requests = again
	}
}

// write stores a block. A confirmed lease may change hands only within the same pod
// or fixed owner, and the former holder then loses its claim.
func (w *world) write(t *rapid.T, b Block) (Block, error) {
	written, err := w.store.write(b)
	if err != nil {
		return written, err
	}
	for a, h := range w.granted {
		if inet.BlockOf(a) != b.Base {
			continue
		}
		l, _ := b.Lease(a)
		if l.State != InUse || l.Interface != h.Interface || l.PodUID != h.PodUID && (h.FixedFor.IsZero() || l.FixedFor != h.FixedFor) {
			t.Fatalf("%s belongs to %+v, and a write makes of it %+v", a, h, l)
		}
		if l.Holder != h {
			delete(w.granted, a)
		}
	}
	return written, nil
}

// confirm reports the addresses to a container.
func (w *world) confirm(t *rapid.T, r Request, grants []Grant) {
	for _, g := range grants {
		stored, _ := w.store.blocks[inet.BlockOf(g.Addr)].Lease(g.Addr)
		if stored.State == InUse && stored.ContainerID != r.ContainerID && stored.Interface == g.Interface &&
			(stored.PodUID == r.PodUID || !r.FixedFor.IsZero() && stored.FixedFor == r.FixedFor) {
			continue // another sandbox of the pod or its owner has taken it over since it was written
		}
		if stored.State != InUse || stored.ContainerID != r.ContainerID || stored.Interface != g.Interface {
			t.Fatalf("%s was confirmed to %+v, and the store has %+v", g.Addr, r, stored)
		}
		w.granted[g.Addr] = stored.Holder
	}
}

// checkPlan checks the invariants of every plan.
func (w *world) checkPlan(t *rapid.T, node int, requests []Request, plan Plan) {
	x := w.nodes[node]
	taken := map[netip.Addr]Attachment{}
	for i, result := range plan.Results {
		if result.Err != nil && len(result.Grants)+len(result.Blocks) > 0 {
			t.Fatalf("request %d is refused and granted: %+v", i, result)
		}
		if result.Err == nil && len(result.Grants) != len(requests[i].Wants) {
			t.Fatalf("request %d wants %d addresses and gets %+v", i, len(requests[i].Wants), result.Grants)
		}
		for k, g := range result.Grants {
			want, at := requests[i].Wants[k], Attachment{requests[i].ContainerID, g.Interface}
			if g.Interface != want.Interface || g.Family != want.Family || inet.FamilyOf(g.Addr) != want.Family {
				t.Fatalf("%+v is the answer to %+v", g, want)
			}
			if !w.pools[g.Pool].Contains(g.Addr) || !g.Held && !slices.Contains(want.Pools, g.Pool) {
				t.Fatalf("%s of pool %s (%s) is the answer to %+v", g.Addr, g.Pool, w.pools[g.Pool], want)
			}
			known, _ := x.Block(inet.BlockOf(g.Addr))
			if l, _ := known.Lease(g.Addr); !g.Held && l.State == InUse && l.PodUID != requests[i].PodUID && !slices.Contains(requests[i].Replaces, l.PodUID) {
				t.Fatalf("%+v takes %s from %+v", requests[i], g.Addr, l)
			}
			if !g.Held && w.reserved[node].Contains(g.Addr) {
				t.Fatalf("%s is reserved and the answer to %+v", g.Addr, want)
			}
			if other, ok := taken[g.Addr]; ok && other != at {
				t.Fatalf("%s is given to %v and to %v in one plan", g.Addr, other, at)
			}
			taken[g.Addr] = at
		}
	}
	for _, b := range plan.Writes {
		if err := b.Validate(); err != nil {
			t.Fatal(err)
		}
		if stored, ok := x.Block(b.Base); ok && stored.Version != b.Version || !ok && b.Version != "" {
			t.Fatalf("%s is written with version %q, the index has %q", b.Base, b.Version, stored.Version)
		}
		old, _ := x.Block(b.Base)
		for _, l := range b.Leases {
			if was, _ := old.Lease(l.Addr); l.State == InUse && was != l && taken[l.Addr] == (Attachment{}) {
				t.Fatalf("%+v is written for a request that was not granted it", l)
			}
		}
	}
}

func (w *world) del(t *rapid.T, node int, at Attachment) {
	// From now on the container has no claim, even if the DEL fails.
	for a, h := range w.granted {
		if h.Attachment == at {
			delete(w.granted, a)
		}
	}
	x := w.nodes[node]
	w.sync(x) // an agent finds what its own container holds
	for _, b := range x.Release(w.now, at) {
		if rapid.IntRange(0, 19).Draw(t, "crash") == 0 {
			w.nodes[node] = w.newIndex(node)
			return // the runtime tries again
		}
		if written, err := w.store.write(b); err == nil {
			x.Put(written, w.now)
		} else {
			t.Fatalf("release of %v conflicts although everything is known", at)
		}
	}
}

// check checks the invariants of the world.
func (w *world) check(t *rapid.T) {
	for base, b := range w.store.blocks {
		if err := b.Validate(); err != nil || base != b.Base {
			t.Fatalf("stored as %s: %v", base, err)
		}
		for _, l := range b.Leases {
			if l.State == InUse && !w.pools[l.Pool].Contains(l.Addr) {
				t.Fatalf("%s is leased from pool %s, which has %s", l.Addr, l.Pool, w.pools[l.Pool])
			}
		}
	}
	for a, h := range w.granted {
		if l, _ := w.store.blocks[inet.BlockOf(a)].Lease(a); l.State != InUse || l.Holder != h {
			t.Fatalf("%+v was told that it has %s, and the store says %+v", h, a, l)
		}
	}
}
