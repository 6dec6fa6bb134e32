package lease

import (
	"iter"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/ipset"
)

// DefaultReuseAfter is how long a released address is handed out only when no
// other is left. Neighbours may have the old holder in their caches for that long
// (Linux: base_reachable_time 30 s, up to 45 s).
const DefaultReuseAfter = time.Minute

// Index is what a process knows about blocks, arranged so that Choose need not
// search. It may be partial: a block that is not in it counts as not existing,
// and a plan that creates one that does exist fails at the store; put the
// existing one and choose again. It is not safe for concurrent use.
type Index struct{}

// Options configure an Index.
type Options struct {
	// Node is preferred in the blocks that it created, and named in new ones.
	Node string
	// ReuseAfter is for how long a released address is reused last; 0 means
	// DefaultReuseAfter, negative not at all.
	ReuseAfter time.Duration
}

// NewIndex returns an index without pools and blocks.
func NewIndex(o Options) *Index { return &Index{} }

// SetPool adds a pool or replaces its addresses, which are those that may be
// handed out (pool.Catalog.Usable).
func (x *Index) SetPool(name string, usable ipset.Set) {}

// DeletePool removes a pool, if it is there. Its leases stay.
func (x *Index) DeletePool(name string) {}

// Put adds a block or replaces the one of its name, at the time now. An outdated
// one does no harm but a conflict at the store.
func (x *Index) Put(b Block, now time.Time) {}

// Delete removes a block, if it is there: it does not exist in the store.
func (x *Index) Delete(base netip.Addr) {}

// Block returns the block of that name, and false where none is known.
func (x *Index) Block(base netip.Addr) (Block, bool) { return Block{}, false }

// Blocks yields the known blocks, in no order.
func (x *Index) Blocks() iter.Seq[Block] { return func(func(Block) bool) {} }

// Attached returns the leases in use by the attachment, sorted by address.
func (x *Index) Attached(at Attachment) []Lease { return nil }

// FixedFor returns the leases, in use or retained, that are fixed for owner,
// sorted by address.
func (x *Index) FixedFor(owner string) []Lease { return nil }

// OfPool yields the leases with that pool's name, in no order.
func (x *Index) OfPool(pool string) iter.Seq[Lease] { return func(func(Lease) bool) {} }

// Usage counts the addresses of a pool.
type Usage struct {
	Total int64 // that may be handed out, at most math.MaxInt64
	Free  int64 // of these, how many are available; as far as the blocks are known

	// Leases with the pool's name, also of addresses that it has no more.
	InUse, Retained, Quarantined int64
}

// Usage returns the counts of a pool, all 0 where it is unknown.
func (x *Index) Usage(pool string) Usage { return Usage{} }
