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
	p := &poolIndex{name: name, family: family, usable: usable, start: start, entries: map[netip.Addr]*entry{}}
	inFree := func(e *entry) *int { return &e.inFree }
	inCooling := func(e *entry) *int { return &e.inCooling }
	// A node fills its blocks from the lowest on, so that requests that come
	// together are served by one write; in the blocks of others every node begins
	// elsewhere.
	byBase := func(a, b *entry) bool { return a.block.Base.Less(b.block.Base) }
	byOrder := func(a, b *entry) bool {
		return cmp.Or(cmp.Compare(a.order, b.order), a.block.Base.Compare(b.block.Base)) < 0
	}
	bySince := func(a, b *entry) bool {
		return cmp.Or(a.since.Compare(b.since), a.block.Base.Compare(b.block.Base)) < 0
	}
	p.ownFree = queue[*entry]{less: byBase, at: inFree}
	p.othersFree = queue[*entry]{less: byOrder, at: inFree}
	p.ownCooling = queue[*entry]{less: bySince, at: inCooling}
	p.othersCooling = queue[*entry]{less: bySince, at: inCooling}
	return p
}

// queues returns the two queues of the pool that e can be in.
func (p *poolIndex) queues(e *entry) (free, cooling *queue[*entry]) {
	if e.own {
		return &p.ownFree, &p.ownCooling
	}
	return &p.othersFree, &p.othersCooling
}

// leave takes the entry out of the pool.
func (p *poolIndex) leave(e *entry) {
	free, cooling := p.queues(e)
	free.set(e, false)
	cooling.set(e, false)
	p.taken -= int64(e.taken)
	p.outlined -= int64(e.outlined)
	delete(p.entries, e.block.Base)
	if n, ok := p.usable.BlockOrdinal(e.block.Base); ok {
		p.claimed.remove(n)
	}
}

// classify brings what depends on the leases and the time up to date.
func (x *Index) classify(k *known, now time.Time) {
	k.free, k.cooling, k.next = ^inet.Mask(0), 0, time.Time{}
	if k.block.Damaged != "" || k.block.Full {
		k.free = 0
	}
	for _, l := range k.block.Leases {
		bit := inet.Mask(1) << inet.BlockIndex(l.Addr)
		at := time.Time{} // when the address becomes free
		switch l.State {
		case Released:
			at = l.Since.Add(x.reuseAfter)
		case Quarantined:
			at = l.Until
		default:
			k.free &^= bit
			continue
		}
		if !now.Before(at) {
			continue
		}
		k.free &^= bit
		if l.State == Released {
			k.cooling |= bit
		}
		if k.next.IsZero() || at.Before(k.next) {
			k.next = at
		}
	}
	x.expiry.set(k, !k.next.IsZero())
	k.classifyEntries()
}

// classifyEntries puts the block where its pools look for it.
func (k *known) classifyEntries() {
	for _, e := range k.entries {
		taken := bits.OnesCount16(uint16(e.mask &^ (k.free | k.cooling)))
		e.pool.taken += int64(taken - e.taken)
		e.taken = taken
		outlined := 0
		if k.block.Full {
			outlined = taken
		}
		e.pool.outlined += int64(outlined - e.outlined)
		e.outlined = outlined
		if l, ok := e.longestReleased(); ok {
			e.since = l.Since
		}
		free, cooling := e.pool.queues(e)
		free.set(e, e.mask&k.free != 0)
		cooling.set(e, e.mask&k.cooling != 0)
	}
}

// longestReleased returns the lease of the cooling address of the pool that was
// released first, the lowest of several, and false where there is none.
func (e *entry) longestReleased() (longest Lease, ok bool) {
	for _, l := range e.block.Leases {
		if e.mask&e.cooling&(1<<inet.BlockIndex(l.Addr)) != 0 && (!ok || l.Since.Before(longest.Since)) {
			longest, ok = l, true
		}
	}
	return longest, ok
}

// advance frees what has become free by the time now.
func (x *Index) advance(now time.Time) {
	for {
		k, ok := x.expiry.first()
		if !ok || now.Before(k.next) {
			return
		}
		x.classify(k, now)
	}
}

// record updates the look-up tables for a block that had the old leases and has
// the new ones, both sorted by address.
func (x *Index) record(old, new []Lease) {
	for i, j := 0, 0; i < len(old) || j < len(new); {
		switch {
		case j == len(new) || i < len(old) && old[i].Addr.Less(new[j].Addr):
			x.note(old[i], -1)
			i++
		case i == len(old) || new[j].Addr.Less(old[i].Addr):
			x.note(new[j], 1)
			j++
		default:
			if old[i] != new[j] {
				x.note(old[i], -1)
				x.note(new[j], 1)
			}
			i++
			j++
		}
	}
}

// note adds (1) a lease to the look-up tables or takes it out (-1).
func (x *Index) note(l Lease, change int) {
	if l.State == InUse {
		update(x.attached, l.Attachment, l.Addr, change)
	}
	if l.State == InUse || l.State == Retained {
		if l.PodUID != "" {
			update(x.uids, l.PodUID, l.Addr, change)
		}
		if l.FixedFor != "" {
			update(x.fixed, l.FixedFor, l.Addr, change)
		}
	}
	if l.Pool == "" {
		return
	}
	t, ok := x.tallies[l.Pool]
	if !ok {
		t = &tally{states: map[State]int64{}, blocks: map[netip.Addr]int{}}
		x.tallies[l.Pool] = t
	}
	t.states[l.State] += int64(change)
	base := inet.BlockOf(l.Addr)
	if t.blocks[base] += change; t.blocks[base] == 0 {
		delete(t.blocks, base)
	}
	if len(t.blocks) == 0 {
		delete(x.tallies, l.Pool)
	}
}

// update adds or removes an address in the list of a key.
func update[K comparable](lists map[K][]netip.Addr, key K, a netip.Addr, change int) {
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

// spans finds the pools that have an address of a block. Pools of one cluster
// share no address, so a block is in few of them; it is rebuilt when they change.
type spans struct {
	stale bool
	items []span       // sorted by first
	reach []netip.Addr // the greatest last of items[:i+1]
}

type span struct {
	first, last netip.Addr
	pool        *poolIndex
}

// at returns the pools whose blocks include the one named base.
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
