package lease

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func newPoolIndex(name string, family inet.Family, usable inet.Set, start uint64) *poolIndex {
	p := &poolIndex{name: name, family: family, usable: usable, start: start, blocks: map[netip.Addr]*poolBlock{}}
	inFree := func(b *poolBlock) *int { return &b.inFree }
	inCooling := func(b *poolBlock) *int { return &b.inCooling }
	// A node fills its own blocks from the lowest one, so that one write serves many
	// concurrent requests. In the blocks of other nodes, each node has another order.
	byBase := func(a, b *poolBlock) bool { return a.block.Base.Less(b.block.Base) }
	byOrder := func(a, b *poolBlock) bool {
		return cmp.Or(cmp.Compare(a.order, b.order), a.block.Base.Compare(b.block.Base)) < 0
	}
	bySince := func(a, b *poolBlock) bool {
		return cmp.Or(a.since.Compare(b.since), a.block.Base.Compare(b.block.Base)) < 0
	}
	p.ownFree = queue[*poolBlock]{less: byBase, at: inFree}
	p.othersFree = queue[*poolBlock]{less: byOrder, at: inFree}
	p.ownCooling = queue[*poolBlock]{less: bySince, at: inCooling}
	p.othersCooling = queue[*poolBlock]{less: bySince, at: inCooling}
	return p
}

// queues returns the two possible queues of b.
func (p *poolIndex) queues(b *poolBlock) (free, cooling *queue[*poolBlock]) {
	if b.own {
		return &p.ownFree, &p.ownCooling
	}
	return &p.othersFree, &p.othersCooling
}

// removeFromPool removes a block from the pool.
func (p *poolIndex) removeFromPool(b *poolBlock) {
	free, cooling := p.queues(b)
	free.set(b, false)
	cooling.set(b, false)
	p.taken -= int64(b.taken)
	p.compacted -= int64(b.compacted)
	p.former -= int64(b.former)
	delete(p.blocks, b.block.Base)
	if n, ok := p.usable.BlockOrdinal(b.block.Base); ok {
		p.created.remove(n)
	}
}

// classify recomputes everything derived from the leases and the time.
func (x *Index) classify(b *indexedBlock, now time.Time) {
	b.free, b.cooling, b.next = ^inet.Mask(0), 0, time.Time{}
	if b.block.Damaged != "" || b.block.Compacted || b.block.Unread || b.block.Avoided {
		b.free = 0
	}
	seen := b.seen
	for _, l := range b.block.Leases {
		bit := inet.Mask(1) << inet.BlockIndex(l.Addr)
		after, expires := l.expires(x.reuseAfter)
		if !expires {
			b.free &^= bit
			continue
		}
		at := seen[0].at.Add(after) // the address is free from then on
		seen = seen[1:]
		if !now.Before(at) {
			continue
		}
		b.free &^= bit
		if l.State == Released && !b.block.Unread && !b.block.Avoided {
			b.cooling |= bit
		}
		if b.next.IsZero() || at.Before(b.next) {
			b.next = at
		}
	}
	b.former = 0
	for _, f := range b.block.Former {
		b.former |= inet.Mask(1) << inet.BlockIndex(f.Addr)
	}
	b.former &= b.free | b.cooling
	b.free, b.cooling = b.free&^b.former, b.cooling&^b.former
	x.expiry.set(b, !b.next.IsZero())
	b.classifyInPools()
}

// classifyInPools updates the counters and queues of the block's pools.
func (b *indexedBlock) classifyInPools() {
	for _, in := range b.inPools {
		taken := bits.OnesCount16(uint16(in.mask &^ (b.free | b.cooling)))
		in.pool.taken += int64(taken - in.taken)
		in.taken = taken
		compacted := 0
		if b.block.Compacted {
			compacted = taken
		}
		in.pool.compacted += int64(compacted - in.compacted)
		in.compacted = compacted
		former := bits.OnesCount16(uint16(in.mask & b.former))
		in.pool.former += int64(former - in.former)
		in.former = former
		if l, ok := in.longestReleased(); ok {
			in.since = l.Since
		}
		free, cooling := in.pool.queues(in)
		free.set(in, in.mask&b.free != 0)
		cooling.set(in, in.mask&b.cooling != 0)
	}
}

// longestReleased returns the oldest Released lease of the pool's cooling addresses,
// the lowest of several, and false if there is none.
func (b *poolBlock) longestReleased() (longest Lease, ok bool) {
	for _, l := range b.block.Leases {
		if b.mask&b.cooling&(1<<inet.BlockIndex(l.Addr)) != 0 && (!ok || l.Since.Before(longest.Since)) {
			longest, ok = l, true
		}
	}
	return longest, ok
}

// advance frees the addresses of leases expired at the time now.
func (x *Index) advance(now time.Time) {
	for {
		b, ok := x.expiry.first()
		if !ok || now.Before(b.next) {
			return
		}
		x.classify(b, now)
	}
}

// reindex replaces the old content of a block by the new one in the look-up tables.
func (x *Index) reindex(before, after Block) {
	for _, f := range before.Former {
		addOrRemove(x.former, f.Attachment, f.Addr, -1)
	}
	for _, f := range after.Former {
		addOrRemove(x.former, f.Attachment, f.Addr, 1)
	}
	old, new := before.Leases, after.Leases // both sorted by address
	for i, j := 0, 0; i < len(old) || j < len(new); {
		switch {
		case j == len(new) || i < len(old) && old[i].Addr.Less(new[j].Addr):
			x.indexLease(old[i], -1)
			i++
		case i == len(old) || new[j].Addr.Less(old[i].Addr):
			x.indexLease(new[j], 1)
			j++
		default:
			if old[i] != new[j] {
				x.indexLease(old[i], -1)
				x.indexLease(new[j], 1)
			}
			i++
			j++
		}
	}
}

// indexLease adds a lease to the look-up tables (change 1) or removes it (-1).
func (x *Index) indexLease(l Lease, change int) {
	if l.State == InUse {
		addOrRemove(x.attached, l.Attachment, l.Addr, change)
	}
	if l.State == InUse || l.State == Retained {
		if l.PodUID != "" {
			addOrRemove(x.uids, l.PodUID, l.Addr, change)
		}
		if !l.FixedFor.IsZero() {
			addOrRemove(x.fixed, l.FixedFor, l.Addr, change)
		}
	}
	if l.Pool == "" {
		return
	}
	t, ok := x.tallies[l.Pool]
	if !ok {
		t = &tally{states: map[State]int64{}}
		x.tallies[l.Pool] = t
	}
	t.states[l.State] += int64(change)
	if t.leases += int64(change); t.leases == 0 {
		delete(x.tallies, l.Pool)
	}
}

// addOrRemove adds or removes an address in the list of a key.
func addOrRemove[K comparable](lists map[K][]netip.Addr, key K, a netip.Addr, change int) {
	list := lists[key]
	if change > 0 {
		lists[key] = append(list, a)
		return
	}
	if i := slices.Index(list, a); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(lists, key)
		return
	}
	lists[key] = list
}

// spans finds the pools with an address of a block. Pools of one cluster share no
// address, so a block is in few pools. spans is rebuilt after a change of pools.
type spans struct {
	stale bool
	items []span       // sorted by first
	reach []netip.Addr // maximum of last in items[:i+1]
}

type span struct {
	first, last netip.Addr
	pool        *poolIndex
}

// at returns the pools with an address in the block named base.
func (s *spans) at(base netip.Addr, pools map[string]*poolIndex) []*poolIndex {
	if s.stale {
		s.rebuild(pools)
	}
	var found []*poolIndex
	i := sort.Search(len(s.items), func(i int) bool { return base.Less(s.items[i].first) }) - 1
	for ; i >= 0 && !s.reach[i].Less(base); i-- {
		if !s.items[i].last.Less(base) {
			found = append(found, s.items[i].pool)
		}
	}
	return found
}

func (s *spans) rebuild(pools map[string]*poolIndex) {
	s.stale = false
	s.items = s.items[:0]
	for _, p := range pools {
		for _, r := range p.usable.BlockSpans() {
			s.items = append(s.items, span{r.From(), r.To(), p})
		}
	}
	slices.SortFunc(s.items, func(a, b span) int {
		return cmp.Or(a.first.Compare(b.first), cmp.Compare(a.pool.name, b.pool.name))
	})
	s.reach = s.reach[:0]
	for i, item := range s.items {
		if i > 0 && item.last.Less(s.reach[i-1]) {
			item.last = s.reach[i-1]
		}
		s.reach = append(s.reach, item.last)
	}
}
