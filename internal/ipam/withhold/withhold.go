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
// change, and the store refuses the late write. Restore ends only leases that are as List
// saw them, so a former leader that was paused ends nothing that its successor has written.
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
	seen []lease.Lease // sorted by address
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
	// 1. Read all blocks first: most pieces with a holder cost no write.
	var stored []lease.Block
	var withheld []lease.Lease // that this call has seen or written
	for base, mask := range p.Addrs.Blocks() {
		b, err := w.read(ctx, base)
		if err != nil {
			return nil, err
		}
		stored = append(stored, b)
		withheld = append(withheld, p.of(b)...)
		_, held := b.Withhold(mask, p.Network, p.Pool, w.now())
		holders = append(holders, held...)
	}
	// 2. Write them, unless an agent was faster.
	for i := 0; i < len(stored) && len(holders) == 0; i++ {
		var written []lease.Lease
		if written, holders, err = w.write(ctx, p, stored[i]); err != nil {
			return nil, err
		}
		withheld = append(withheld, written...)
	}
	if len(holders) == 0 {
		w.log.InfoContext(ctx, "withheld addresses", "network", p.Network, "pool", p.Pool, "ips", p.Addrs.String())
		return nil, nil
	}
	// 3. Undo all of it.
	if err := w.end(ctx, withheld); err != nil {
		return nil, err
	}
	return holders, nil
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

// of returns the leases by which the block withholds addresses of the piece.
func (p Piece) of(b lease.Block) []lease.Lease {
	return slices.DeleteFunc(b.Withheld(), func(l lease.Lease) bool { return l.WithheldBy != p.Network || !p.Addrs.Contains(l.Addr) })
}

// write withholds the addresses of one block. It returns their leases, or the holders.
func (w *Withholder) write(ctx context.Context, p Piece, b lease.Block) (written, holders []lease.Lease, err error) {
	for range maxAttempts {
		next, holders := b.Withhold(p.Addrs.Mask(b.Base), p.Network, p.Pool, w.now())
		if len(holders) > 0 {
			return nil, holders, nil
		}
		_, err = w.blocks.Put(ctx, next)
		if err == nil {
			return p.of(next), nil, nil
		}
		if !errors.Is(err, alloc.ErrConflict) {
			return nil, nil, fmt.Errorf("withhold addresses of SpiderIPBlock %s: %w", inet.BlockPrefix(b.Base), err)
		}
		if b, err = w.read(ctx, b.Base); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("withhold addresses of SpiderIPBlock %s: %w %d times in a row", inet.BlockPrefix(b.Base), alloc.ErrConflict, maxAttempts)
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
		return lease.Block{}, fmt.Errorf("SpiderIPBlock %s is corrupt, so its addresses stay as they are until it is fixed or deleted: %s", inet.BlockPrefix(base), b.Damaged)
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
	seen := map[key][]lease.Lease{}
	for _, b := range blocks {
		for _, l := range b.Withheld() {
			k := key{l.WithheldBy, l.Pool}
			seen[k] = append(seen[k], l)
		}
	}
	var all []Withheld
	for k, leases := range seen {
		var addrs []netip.Addr
		for _, l := range leases {
			addrs = append(addrs, l.Addr)
		}
		slices.SortFunc(leases, func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) })
		all = append(all, Withheld{Piece{k.network, k.pool, inet.OfAddrs(addrs...)}, leases})
	}
	slices.SortFunc(all, func(a, b Withheld) int { return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Pool, b.Pool)) })
	return all, nil
}

// Restore frees the withheld addresses of h that addrs has. It leaves those alone that have
// changed since h was listed; the next list has them. After an error, some may be free.
func (w *Withholder) Restore(ctx context.Context, h Withheld, addrs inet.Set) error {
	chosen := slices.DeleteFunc(slices.Clone(h.seen), func(l lease.Lease) bool { return !addrs.Contains(l.Addr) })
	if len(chosen) == 0 {
		return nil
	}
	if err := w.end(ctx, chosen); err != nil {
		return err
	}
	w.log.InfoContext(ctx, "ended the withholding of addresses", "network", h.Network, "pool", h.Pool, "ips", h.Addrs.And(addrs).String())
	return nil
}

// end frees the addresses of the leases that are still as seen.
func (w *Withholder) end(ctx context.Context, seen []lease.Lease) error {
	byBlock := map[netip.Addr][]lease.Lease{}
	var bases []netip.Addr
	for _, l := range seen {
		base := inet.BlockOf(l.Addr)
		if byBlock[base] == nil {
			bases = append(bases, base)
		}
		byBlock[base] = append(byBlock[base], l)
	}
	var errs []error
	for _, base := range bases {
		errs = append(errs, w.endIn(ctx, base, byBlock[base]))
	}
	return errors.Join(errs...)
}

func (w *Withholder) endIn(ctx context.Context, base netip.Addr, seen []lease.Lease) error {
	for range maxAttempts {
		b, err := w.read(ctx, base)
		if err != nil {
			return err
		}
		ended := false
		for _, l := range seen {
			next, ok := b.EndWithheld(l, w.now())
			b, ended = next, ended || ok
		}
		if !ended {
			return nil
		}
		_, err = w.blocks.Put(ctx, b)
		if err == nil {
			return nil
		}
		if !errors.Is(err, alloc.ErrConflict) {
			return fmt.Errorf("free withheld addresses of SpiderIPBlock %s: %w", inet.BlockPrefix(base), err)
		}
	}
	return fmt.Errorf("free withheld addresses of SpiderIPBlock %s: %w %d times in a row", inet.BlockPrefix(base), alloc.ErrConflict, maxAttempts)
}
