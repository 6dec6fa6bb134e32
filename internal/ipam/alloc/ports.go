package alloc

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
)

// Errors of Blocks, possibly wrapped, and of the Allocator.
var (
	// ErrNotFound: there is no such block.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the stored block is not the one that the change was made from:
	// another version, or one that exists already, or one that is gone.
	ErrConflict = errors.New("changed by another writer")
	// ErrRefused: the store refuses this content of the block, e.g. as too large. Nothing
	// was written, and the same write will be refused again.
	ErrRefused = errors.New("refused by the API server")
	// ErrNotReady: the leases that the request is about have not been read yet.
	ErrNotReady = errors.New("not ready")
)

// Blocks stores the blocks of the cluster with optimistic concurrency.
type Blocks interface {
	// Get returns the block of that name, or ErrNotFound.
	Get(ctx context.Context, base netip.Addr) (lease.Block, error)
	// Put creates the block if its Version is empty and else replaces the one of
	// that version; it returns the new version. ErrConflict and ErrRefused mean that
	// nothing was written; after any other error it is unknown whether it was.
	Put(ctx context.Context, b lease.Block) (version string, err error)
	// OfNode returns the blocks that the node created and those with leases of it.
	OfNode(ctx context.Context, node string) ([]lease.Block, error)
	// FixedFor returns the blocks with addresses that are in use by or retained for
	// the owner (lease.Holder.FixedFor); others may be among them.
	FixedFor(ctx context.Context, owner lease.Owner) ([]lease.Block, error)
	// InRegion returns the blocks with addresses in a region (see RegionOf).
	InRegion(ctx context.Context, region netip.Prefix) ([]lease.Block, error)
}

// RegionOf returns the region of an address: 256 blocks, an IPv4 /20 or an IPv6
// /116. It is the unit in which other nodes' blocks are read, and so bounds the
// cost of learning about them whatever the size of a pool.
func RegionOf(a netip.Addr) netip.Prefix {
	bits := 20
	if a.Is6() {
		bits = 116
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// Observer counts what happens to blocks, for metrics.
type Observer interface {
	// AllocationConflict and ReleaseConflict count a write that failed because another
	// writer had changed the block: once for its allocations, once for its releases.
	AllocationConflict()
	ReleaseConflict()
	// Damaged counts a corrupt block read from the store.
	Damaged()
	// Committed measures a batch with writes: the number of its requests, and the time
	// until all its blocks were written or refused.
	Committed(requests int, took time.Duration)
}
