package lease

import (
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// DefaultReuseAfter is the time after its release during which an address is granted
// only if no other one is left. Neighbors may have the old holder in their caches
// for this long (Linux: base_reachable_time 30 s, up to 45 s).
const DefaultReuseAfter = time.Minute

// Index holds the known blocks and pools of a process, indexed so that Choose need
// not search. It may be partial: an unknown block counts as nonexistent. If a plan
// then creates an existing block, the write fails at the store; Put the existing
// block and choose again. An Index is not safe for concurrent use.
type Index struct {
	node       string
	reuseAfter time.Duration

	blocks map[netip.Addr]*indexedBlock
	pools  map[string]*poolIndex
	spans  spans
	expiry queue[*indexedBlock] // ordered by the next expiry of a lease

	// Addresses with a lease, by look-up key.
	attached map[Attachment][]netip.Addr // in use
	former   map[Attachment][]netip.Addr // see Block.Former
	uids     map[string][]netip.Addr     // pod UID: in use or retained
	fixed    map[Owner][]netip.Addr      // owner: in use or retained
	tallies  map[string]*tally           // pool name
}

// indexedBlock is a block with the state derived at its last classification.
type indexedBlock struct {
	block   Block
	seen    Sightings    // of the leases that expire, in their order in the block
	own     bool         // created by this node
	free    inet.Mask    // may be granted
	former  inet.Mask    // out of reach only because of former sandboxes
	cooling inet.Mask    // recently released; may be granted if nothing else is left
	inPools []*poolBlock // one per pool with an address of the block

	next     time.Time // next change of free or cooling; zero: never
	inExpiry int
}

// poolBlock is the part of a block belonging to one pool.
type poolBlock struct {
	*indexedBlock
	pool  *poolIndex
	mask  inet.Mask // usable addresses of the pool
	taken int       // number of them neither free nor cooling
	// compacted is the number of them in use in a compacted block.
	compacted int
	former    int       // number of them in indexedBlock.former
	order     uint64    // position among the blocks of other nodes
	since     time.Time // earliest release among the cooling addresses

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
	// compacted and former are sums over blocks.
	compacted, former int64
	start             uint64 // starting point for new blocks; differs by node and pool

	// Blocks with a free address, and blocks with a cooling one.
	ownFree, othersFree       queue[*poolBlock]
	ownCooling, othersCooling queue[*poolBlock]
}

// tally counts the leases of a pool, by the pool's name.
type tally struct {
	states map[State]int64
	leases int64 // sum over states
}

// Options configure an Index.
type Options struct {
	// Node is the name of this node, stored in new blocks. A node prefers its own
	// blocks.
	Node string
	// ReuseAfter is the time after its release during which an address is reused only
	// if no other one is left; 0 means DefaultReuseAfter, negative means no such time.
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
		former:   map[Attachment][]netip.Addr{},
		uids:     map[string][]netip.Addr{},
		fixed:    map[Owner][]netip.Addr{},
		tallies:  map[string]*tally{},
	}
}

// SetPool adds a pool or replaces its usable addresses (pool.Catalog.Usable).
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

// DeletePool removes a pool, if it exists. Its leases stay.
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

// Put adds a block or replaces the block of the same name, at the time now. An
// outdated block is harmless: it only causes a conflict at the store.
func (x *Index) Put(b Block, now time.Time) {
	expires := func(l *Lease) bool { return l.State == Released || l.State == Quarantined }
	x.put(b, x.seen(b.Base).next(b.Leases, expires, now), now)
}

// seen returns the sightings of the expiring leases of a block.
func (x *Index) seen(base netip.Addr) Sightings {
	if known, ok := x.blocks[base]; ok {
		return known.seen
	}
	return nil
}

func (x *Index) put(b Block, seen Sightings, now time.Time) {
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
	x.reindex(known.block, b)
	known.block, known.seen = b, seen
	x.classify(known, now)
}

// Delete removes a block, if known. Call it for a block deleted from the store.
func (x *Index) Delete(base netip.Addr) {
	b, ok := x.blocks[base]
	if !ok {
		return
	}
	x.reindex(b.block, Block{})
	for _, in := range b.inPools {
		in.pool.removeFromPool(in)
	}
	x.expiry.set(b, false)
	delete(x.blocks, base)
}

// Block returns the block named base, and false if it is unknown.
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

// OfPod returns the leases of the pod with this UID, in use or retained, sorted by
// address.
func (x *Index) OfPod(uid string) []Lease {
	if uid == "" {
		return nil
	}
	return x.leasesAt(x.uids[uid])
}

// FixedFor returns the leases fixed for owner, in use or retained, sorted by address.
func (x *Index) FixedFor(owner Owner) []Lease {
	if owner.IsZero() {
		return nil
	}
	return x.leasesAt(x.fixed[owner])
}

// Addresses returns the addresses that a pool may hand out; the empty set if it is
// unknown.
func (x *Index) Addresses(pool string) inet.Set {
	if p, ok := x.pools[pool]; ok {
		return p.usable
	}
	return inet.Set{}
}

// Usage counts the addresses of a pool.
type Usage struct {
	Total int64 // usable addresses, at most math.MaxInt64
	Free  int64 // usable addresses without a lease in a known block

	// Leases with the pool's name, including those of addresses removed from the pool.
	InUse, Retained, Quarantined, Withheld int64
	// Former counts usable addresses without a lease that a former sandbox may still use.
	Former int64
}

// Usage returns the counts of a pool, all 0 if it is unknown. The address of an
// expired lease counts as free from the next Choose.
func (x *Index) Usage(pool string) Usage {
	var u Usage
	if t, ok := x.tallies[pool]; ok {
		u.InUse, u.Retained, u.Quarantined, u.Withheld = t.states[InUse], t.states[Retained], t.states[Quarantined], t.states[Withheld]
	}
	if p, ok := x.pools[pool]; ok {
		u.Total = p.usable.Count()
		u.Free = u.Total - p.taken
		u.InUse += p.compacted
		u.Former = p.former
	}
	return u
}

// Quarantined counts the addresses of a pool in quarantine at the time now, in the known
// blocks.
func (x *Index) Quarantined(pool string, now time.Time) (n int) {
	p, ok := x.pools[pool]
	if !ok {
		return 0
	}
	for _, b := range p.blocks {
		for _, l := range b.block.Leases {
			if l.Pool == pool && l.State == Quarantined && b.seen.Age(l, now) < l.quarantine() {
				n++
			}
		}
	}
	return n
}

// leasesAt returns the leases of the addresses, sorted by address.
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

// blocksIn returns the known blocks with an address of the set. It iterates over the
// blocks of the set or over the known blocks, whichever are fewer.
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

// addToPool adds the block to the pool, if the pool has an address in it.
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

// hash returns the same number for the same parts in every process.
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
