// Package withhold takes free addresses away from all agents, before a cloud network returns
// them, and gives them back.
//
// An agent may not know yet that a pool has lost an address: its cache is old, or its watch is
// broken. No waiting time is a proof. So the controller writes a lease of the state
// lease.Withheld for each address into its SpiderIPBlock, where the grant of the agent would
// have to be. Both are writes of one object with optimistic concurrency: the store lets one of
// them through, and the other reads the block again.
//
//   - Withhold succeeds for all addresses of a piece, or leaves none withheld.
//   - The addresses stay withheld until Restore, also after a crash. List finds them.
//   - Each call may fail at any point, or after its last write. The same call then completes it.
//
// A write without an answer may arrive later, even after the process has ended. Withhold
// therefore writes each block, whether or not the addresses are withheld already: the versions
// change, and the store refuses the late write. For the same reason Restore ends the state only
// in blocks that have not changed since List: a former leader that was paused between the two ends
// nothing that its successor has written. Comparing leases would not do, because two of them
// may be equal.
//
// See docs/adr/0035-withheld-addresses.md.
package withhold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
)

// maxAttempts bounds how often one call reads and writes a block again after a conflict.
const maxAttempts = 8

// ErrDamaged is the end of a Withhold that meets a damaged block. Another attempt is useless until it is fixed or deleted.
var ErrDamaged = errors.New("its addresses stay as they are until it is fixed or deleted")

// Blocks stores the blocks of the cluster. All reads are of the store itself, never of a cache.
type Blocks interface {
	// Get returns the block of that name, or alloc.ErrNotFound.
	Get(ctx context.Context, base netip.Addr) (lease.Block, error)
	// Put is that of alloc.Blocks.
	Put(ctx context.Context, b lease.Block) (version string, err error)
	// Withheld returns the blocks with a withheld address; others may be among them.
	Withheld(ctx context.Context) ([]lease.Block, error)
}

// Piece is a set of addresses that are returned together, e.g. those of a /28.
type Piece struct {
	Network string // the SpiderCloudNetwork that returns them
	Pool    string // the SpiderIPPool that had them
	// Addrs has at most lease.MaxWithheld addresses of any blocks. See lease.Withholdable.
	Addrs inet.Set
}

// Withheld are the withheld addresses of one network and pool at one time.
type Withheld struct {
	Piece
	blocks []lease.Block // at that time
}

// Withholder withholds addresses. It keeps no state, so it is safe for concurrent use.
type Withholder struct {
	blocks Blocks
	now    func() time.Time
	log    *slog.Logger
}

// New returns a Withholder.
func New(blocks Blocks, now func() time.Time, log *slog.Logger) *Withholder {
	return &Withholder{blocks: blocks, now: now, log: log}
}

// Withhold withholds all addresses of the piece. If it returns neither holders nor an error,
// no agent grants any of them from now on, whatever it knows. Holders are why an address is not
// free: leases in use, retained, in quarantine or withheld by another network, and former
// sandboxes. No address of the piece is withheld then. After an error, some may be.
//
// Call Withhold again before each attempt to return the piece to the cloud: only the writes of
// the call itself exclude a late write that would end the state.
func (w *Withholder) Withhold(ctx context.Context, p Piece) (holders []lease.Lease, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	for range maxAttempts {
		if holders, err = w.attempt(ctx, p); !errors.Is(err, alloc.ErrConflict) {
			break
		}
	}
	if err == nil && len(holders) == 0 {
		w.log.InfoContext(ctx, "withheld addresses", "network", p.Network, "pool", p.Pool, "ips", p.Addrs.String())
	}
	return holders, err
}

// attempt is Withhold, but for conflicts.
func (w *Withholder) attempt(ctx context.Context, p Piece) (holders []lease.Lease, err error) {
	// 1. Read all blocks first: most pieces with a holder cost no write.
	var blocks []lease.Block
	for base, mask := range p.Addrs.Blocks() {
		b, err := w.read(ctx, base)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
		_, held := b.Withhold(mask, p.Network, p.Pool, w.now())
		holders = append(holders, held...)
	}
	// 2. Write them, unless an agent was faster.
	for i := 0; i < len(blocks) && len(holders) == 0; i++ {
		if blocks[i], holders, err = w.write(ctx, p, blocks[i]); err != nil {
			return nil, err
		}
	}
	if len(holders) == 0 {
		return nil, nil
	}
	// 3. Undo what this attempt has written, and what an earlier call has left.
	return holders, w.end(ctx, blocks, p.Network, p.Addrs)
}

func (p Piece) check() error {
	switch n := p.Addrs.Count(); {
	case p.Network == "" || p.Pool == "":
		return fmt.Errorf("withhold %s: the SpiderCloudNetwork is %q and the SpiderIPPool %q; both need a name", p.Addrs, p.Network, p.Pool)
	case n == 0 || n > lease.MaxWithheld:
		return fmt.Errorf("withhold addresses of SpiderIPPool %s: got %d; possible are 1 to %d, and a larger piece stays assigned", p.Pool, n, lease.MaxWithheld)
	}
	return nil
}

// write withholds the addresses of one block. It returns the block as the store has it, and the holders.
func (w *Withholder) write(ctx context.Context, p Piece, b lease.Block) (lease.Block, []lease.Lease, error) {
	for range maxAttempts {
		next, holders := b.Withhold(p.Addrs.Mask(b.Base), p.Network, p.Pool, w.now())
		if len(holders) > 0 {
			return b, holders, nil
		}
		version, err := w.blocks.Put(ctx, next)
		if err == nil {
			next.Version = version
			return next, nil, nil
		}
		if !errors.Is(err, alloc.ErrConflict) {
			return b, nil, fmt.Errorf("withhold addresses of SpiderIPBlock %s: %w", inet.BlockPrefix(b.Base), err)
		}
		if b, err = w.read(ctx, b.Base); err != nil {
			return b, nil, err
		}
	}
	return b, nil, fmt.Errorf("withhold addresses of SpiderIPBlock %s: %w", inet.BlockPrefix(b.Base), alloc.ErrConflict)
}

// read reads a block. One that does not exist has no version.
func (w *Withholder) read(ctx context.Context, base netip.Addr) (lease.Block, error) {
	b, err := w.blocks.Get(ctx, base)
	switch {
	case errors.Is(err, alloc.ErrNotFound):
		return lease.Block{Base: base}, nil
	case err != nil:
		return lease.Block{}, fmt.Errorf("read SpiderIPBlock %s: %w", inet.BlockPrefix(base), err)
	case b.Damaged != "":
		return lease.Block{}, fmt.Errorf("SpiderIPBlock %s is corrupt, so %w: %s", inet.BlockPrefix(base), ErrDamaged, b.Damaged)
	}
	return b, nil
}

// List returns all withheld addresses, sorted by network and pool.
func (w *Withholder) List(ctx context.Context) ([]Withheld, error) {
	blocks, err := w.blocks.Withheld(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the SpiderIPBlocks with withheld addresses: %w", err)
	}
	type key struct{ network, pool string }
	addrs, of := map[key][]netip.Addr{}, map[key][]lease.Block{}
	for _, b := range blocks {
		for _, l := range b.Withheld() {
			k := key{l.WithheldBy, l.Pool}
			if n := len(of[k]); n == 0 || of[k][n-1].Base != b.Base {
				of[k] = append(of[k], b)
			}
			addrs[k] = append(addrs[k], l.Addr)
		}
	}
	var all []Withheld
	for k := range of {
		all = append(all, Withheld{Piece{k.network, k.pool, inet.OfAddrs(addrs[k]...)}, of[k]})
	}
	slices.SortFunc(all, func(a, b Withheld) int { return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Pool, b.Pool)) })
	return all, nil
}

// Restore frees the withheld addresses of h that addrs has. If one of their blocks has changed since h was
// listed, it stays as it is, and the error is an alloc.ErrConflict: list again. After any error,
// some addresses may be free.
func (w *Withholder) Restore(ctx context.Context, h Withheld, addrs inet.Set) error {
	addrs = h.Addrs.And(addrs)
	if addrs.IsEmpty() {
		return nil
	}
	if err := w.end(ctx, h.blocks, h.Network, addrs); err != nil {
		return err
	}
	w.log.InfoContext(ctx, "ended the withholding of addresses", "network", h.Network, "pool", h.Pool, "ips", addrs.String())
	return nil
}

// end frees the addresses that the network withholds, in blocks that have not changed.
func (w *Withholder) end(ctx context.Context, blocks []lease.Block, network string, addrs inet.Set) error {
	var errs []error
	for _, b := range blocks {
		next, ended := b.EndWithheld(addrs.Mask(b.Base), network, w.now())
		if !ended {
			continue
		}
		if _, err := w.blocks.Put(ctx, next); err != nil {
			errs = append(errs, fmt.Errorf("free withheld addresses of SpiderIPBlock %s: %w", inet.BlockPrefix(b.Base), err))
		}
	}
	return errors.Join(errs...)
}
