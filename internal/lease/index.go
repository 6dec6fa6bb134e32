package lease

import (
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// DefaultReuseAfter is how long a released address is handed out only when no
// other is left. Neighbours may have the old holder in their caches for that long
// (Linux: base_reachable_time 30 s, up to 45 s).
const DefaultReuseAfter = time.Minute

// Index is what a process knows about blocks, arranged so that Choose need not
// search. It may be partial: a block that is not in it counts as not existing,
// and a plan that creates one that does exist fails at the store; put the
// existing one and choose again. It is not safe for concurrent use.
type Index struct {
	node       string
	reuseAfter time.Duration

	blocks map[netip.Addr]*indexedBlock
	pools  map[string]*poolIndex
	spans  spans
	expiry queue[*indexedBlock] // by the time at which an address of the block becomes free

	// Where the leases are, by what they are looked up by.
	attached map[Attachment][]netip.Addr // in use
	uids     map[string][]netip.Addr     // pod UID: in use or retained
	fixed    map[string][]netip.Addr     // owner: in use or retained
	tallies  map[string]*tally           // pool name
}

// indexedBlock is a block and what it means at the time of its last classification.
type indexedBlock struct {
	block   Block
	own     bool         // created by this node
	free    inet.Mask    // may be handed out
	cooling inet.Mask    // was released a short time ago; may be handed out if need be
	inPools []*poolBlock // for each pool that may hand out an address of the block

	next     time.Time // when free or cooling changes; zero: never
	inExpiry int
}

// poolBlock is a block as a pool sees it.
type poolBlock struct {
	*indexedBlock
	pool  *poolIndex
	mask  inet.Mask // addresses that the pool may hand out
	taken int       // how many of them are neither free nor cooling
	// compacted is how many of them are in use in a compacted block.
	compacted int
	order     uint64    // among the blocks of other nodes
	since     time.Time // when the first of the cooling ones was released

	inFree, inCooling int
}

// poolIndex is a pool and its known blocks.
type poolIndex struct {
	name    string
	family  inet.Family
	usable  inet.Set
	blocks  map[netip.Addr]*poolBlock
	created ordinalSet // ordinals (inet.Set.BlockOrdinal) of the blocks
	taken   int64      // sum over blocks
	// compacted is the sum over blocks.
	compacted int64
	start     uint64 // varies with node and pool

	// Blocks with a free, or only with a cooling address.
	ownFree, othersFree       queue[*poolBlock]
	ownCooling, othersCooling queue[*poolBlock]
}

// tally counts the leases with a pool's name.
type tally struct {
	states map[State]int64
	blocks map[netip.Addr]int // leases in each
}

// Options configure an Index.
type Options struct {
	// Node is preferred in the blocks that it created, and named in new ones.
	Node string
	// ReuseAfter is for how long a released address is reused last; 0 means
	// DefaultReuseAfter, negative not at all.
	ReuseAfter time.Duration
}

// NewIndex returns an index without pools and blocks.
func NewIndex(o Options) *Index {
	if o.ReuseAfter == 0 {
		o.ReuseAfter = DefaultReuseAfter
	}
	return &Index{
		node:       o.Node,
		reuseAfter: max(o.ReuseAfter, 0),
		blocks:     map[netip.Addr]*indexedBlock{},
		pools:      map[string]*poolIndex{},
		expiry: queue[*indexedBlock]{
			less: func(a, b *indexedBlock) bool { return a.next.Before(b.next) },
			at:   func(b *indexedBlock) *int { return &b.inExpiry },
		},
		attached: map[Attachment][]netip.Addr{},
		uids:     map[string][]netip.Addr{},
		fixed:    map[string][]netip.Addr{},
		tallies:  map[string]*tally{},
	}
}

// SetPool adds a pool or replaces its addresses, which are those that may be
// handed out (pool.Catalog.Usable).
func (x *Index) SetPool(name string, usable inet.Set) {
	if old, ok := x.pools[name]; ok {
		if old.usable.Equal(usable) {
			return
		}
		x.DeletePool(name)
	}
	first, _ := usable.First()
	p := newPoolIndex(name, inet.FamilyOf(first), usable, hash(x.node, name))
	x.pools[name] = p
	x.spans.stale = true
	for _, b := range x.blocksIn(usable) {
		x.addToPool(b, p)
		b.classifyInPools()
	}
}

// DeletePool removes a pool, if it is there. Its leases stay.
func (x *Index) DeletePool(name string) {
	p, ok := x.pools[name]
	if !ok {
		return
	}
	for _, b := range p.blocks {
		b.indexedBlock.inPools = slices.DeleteFunc(b.indexedBlock.inPools, func(o *poolBlock) bool { return o == b })
	}
	delete(x.pools, name)
	x.spans.stale = true
}

// Put adds a block or replaces the one of its name, at the time now. An outdated
// one does no harm but a conflict at the store.
func (x *Index) Put(b Block, now time.Time) {
	known, ok := x.blocks[b.Base]
	if ok && known.own != (b.Node == x.node) {
		x.Delete(b.Base)
		ok = false
	}
	if !ok {
		known = &indexedBlock{own: b.Node == x.node}
		known.block.Base = b.Base
		x.blocks[b.Base] = known
		for _, p := range x.spans.at(b.Base, x.pools) {
			x.addToPool(known, p)
		}
	}
	x.reindex(known.block.Leases, b.Leases)
	known.block = b
	x.classify(known, now)
}

// Delete removes a block, if it is there: it does not exist in the store.
func (x *Index) Delete(base netip.Addr) {
	b, ok := x.blocks[base]
	if !ok {
		return
	}
	x.reindex(b.block.Leases, nil)
	for _, in := range b.inPools {
		in.pool.removeFromPool(in)
	}
	x.expiry.set(b, false)
	delete(x.blocks, base)
}

// Block returns the block of that name, and false where none is known.
func (x *Index) Block(base netip.Addr) (Block, bool) {
	b, ok := x.blocks[base]
	if !ok {
		return Block{}, false
	}
	return b.block, true
}

// Blocks yields the known blocks, in no order.
func (x *Index) Blocks() iter.Seq[Block] {
	return func(yield func(Block) bool) {
		for _, b := range x.blocks {
			if !yield(b.block) {
				return
			}
		}
	}
}

// Attached returns the leases in use by the attachment, sorted by address.
func (x *Index) Attached(at Attachment) []Lease { return x.leasesAt(x.attached[at]) }

// OfPod returns the leases, in use or retained, that the pod with that UID has or
// had last, sorted by address.
func (x *Index) OfPod(uid string) []Lease {
	if uid == "" {
		return nil
	}
	return x.leasesAt(x.uids[uid])
}

// FixedFor returns the leases, in use or retained, that are fixed for owner,
// sorted by address.
func (x *Index) FixedFor(owner string) []Lease {
	if owner == "" {
		return nil
	}
	return x.leasesAt(x.fixed[owner])
}

// OfPool yields the leases with that pool's name, in no order.
func (x *Index) OfPool(pool string) iter.Seq[Lease] {
	return func(yield func(Lease) bool) {
		t, ok := x.tallies[pool]
		if !ok {
			return
		}
		for base := range t.blocks {
			for _, l := range x.blocks[base].block.Leases {
				if l.Pool == pool && !yield(l) {
					return
				}
			}
		}
	}
}

// Usage counts the addresses of a pool.
type Usage struct {
	Total int64 // that may be handed out, at most math.MaxInt64
	Free  int64 // of these, how many are available; as far as the blocks are known

	// Leases with the pool's name, also of addresses that it has no more.
	InUse, Retained, Quarantined int64
}

// Usage returns the counts of a pool, all 0 where it is unknown. An address that
// became free by the passing of time is counted from the next Choose on.
func (x *Index) Usage(pool string) Usage {
	var u Usage
	if t, ok := x.tallies[pool]; ok {
		u.InUse, u.Retained, u.Quarantined = t.states[InUse], t.states[Retained], t.states[Quarantined]
	}
	if p, ok := x.pools[pool]; ok {
		u.Total = p.usable.Count()
		u.Free = u.Total - p.taken
		u.InUse += p.compacted
	}
	return u
}

// leasesAt returns the leases of the addresses, which have one, sorted.
func (x *Index) leasesAt(addrs []netip.Addr) []Lease {
	if len(addrs) == 0 {
		return nil
	}
	leases := make([]Lease, 0, len(addrs))
	for _, a := range slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare) {
		if l, ok := x.blocks[inet.BlockOf(a)].block.Lease(a); ok {
			leases = append(leases, l)
		}
	}
	return leases
}

// blocksIn returns the known blocks that hold an address of the set. It looks at
// the blocks of the set or at all known ones, whichever are fewer.
func (x *Index) blocksIn(set inet.Set) []*indexedBlock {
	var in []*indexedBlock
	if set.BlockCount() <= uint64(len(x.blocks)) {
		for base := range set.Blocks() {
			if b, ok := x.blocks[base]; ok {
				in = append(in, b)
			}
		}
		return in
	}
	for base, b := range x.blocks {
		if set.Mask(base) != 0 {
			in = append(in, b)
		}
	}
	return in
}

// addToPool makes the block one of the pool's, if the pool has an address of it.
func (x *Index) addToPool(b *indexedBlock, p *poolIndex) {
	mask := p.usable.Mask(b.block.Base)
	if mask == 0 {
		return
	}
	in := &poolBlock{indexedBlock: b, pool: p, mask: mask, order: hash(x.node, b.block.Base.String())}
	b.inPools = append(b.inPools, in)
	p.blocks[b.block.Base] = in
	if n, ok := p.usable.BlockOrdinal(b.block.Base); ok {
		p.created.add(n)
	}
}

// hash returns a number that is the same in every process.
func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, part := range parts {
		h.Write([]byte(part)) // never fails
		h.Write([]byte{0})
	}
	// The last bytes of the input hardly reach the high bits in FNV-1a; mix them
	// (finalizer of MurmurHash3).
	n := h.Sum64()
	n = (n ^ n>>33) * 0xff51afd7ed558ccd
	n = (n ^ n>>33) * 0xc4ceb9fe1a85ec53
	return n ^ n>>33
}
