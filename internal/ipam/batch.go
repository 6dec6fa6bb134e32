package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"spiderpool.dev/spiderpool/internal/lease"
)

// decision is what one batch does: the blocks to write, and the requests that wait for each.
type decision struct {
	writes map[netip.Addr]lease.Block
	// before is what the index had where it was changed ahead of the writes.
	before map[netip.Addr]previous
	// needs are the blocks that each request's outcome depends on, by request.
	needs [][]netip.Addr
	// outcomes are final where a request needs no write, and else what holds if its
	// writes succeed.
	outcomes []outcome
}

type previous struct {
	block lease.Block
	known bool
}

// runBatch decides about the requests together, commits, answers the settled ones
// and returns the others, which the next batch decides again.
func (a *Allocator) runBatch(batch []*request) (retry []*request) {
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, commitTimeout)
	defer cancel()
	a.reloadUnknown(ctx)

	a.mu.Lock()
	d := a.decide(batch)
	a.mu.Unlock()

	results := a.commit(ctx, d.writes)

	a.mu.Lock()
	a.applyResults(d, results)
	a.mu.Unlock()
	a.countConflicts(batch, d.needs, results)

	for i, r := range batch {
		err := firstError(d.needs[i], results)
		switch {
		case err == nil:
			r.done <- d.outcomes[i]
			continue
		case lostCreate(d.needs[i], results):
			r.createConflicts++
		default:
			r.attempts++
		}
		if errors.Is(err, ErrConflict) && r.attempts < maxAttempts && r.createConflicts < maxCreateConflicts {
			retry = append(retry, r)
		} else {
			r.done <- outcome{err: err}
		}
	}
	a.reload(ctx, results)
	a.readAhead(ctx, retry)
	return retry
}

// lostCreate reports whether one of the blocks was to be created and existed already.
func lostCreate(needs []netip.Addr, results map[netip.Addr]written) bool {
	return slices.ContainsFunc(needs, func(base netip.Addr) bool {
		return results[base].created && errors.Is(results[base].err, ErrConflict)
	})
}

// decide plans the changes and, on top of them, the allocations.
func (a *Allocator) decide(batch []*request) decision {
	now := a.now().UTC().Truncate(precision)
	d := decision{
		writes:   map[netip.Addr]lease.Block{},
		before:   map[netip.Addr]previous{},
		needs:    make([][]netip.Addr, len(batch)),
		outcomes: make([]outcome, len(batch)),
	}
	var requests []lease.Request
	var requesters []int
	for i, r := range batch {
		if len(a.mu.unknown) > 0 || !a.mu.loaded {
			// Also an allocation: its container may have an address already.
			d.outcomes[i].err = fmt.Errorf("the leases of this node are unknown until the API server answers: %w", ErrNotReady)
			continue
		}
		if r.change == nil {
			requests = append(requests, r.allocation)
			requesters = append(requesters, i)
			continue
		}
		for _, b := range r.change(now) {
			if _, done := d.before[b.Base]; !done {
				old, known := a.mu.index.Block(b.Base)
				d.before[b.Base] = previous{old, known}
			}
			a.mu.index.Put(b, now)
			d.writes[b.Base] = b
			d.needs[i] = append(d.needs[i], b.Base)
		}
		d.outcomes[i].changed = len(d.needs[i]) > 0
		d.needs[i] = append(d.needs[i], d.endedBefore(r.releases, d.needs[i])...)
	}
	plan := a.mu.index.Choose(now, requests...)
	for _, b := range plan.Writes {
		d.writes[b.Base] = b
	}
	for k, i := range requesters {
		result := plan.Results[k]
		d.needs[i] = result.Blocks
		d.outcomes[i] = outcome{grants: result.Grants, retainedReleased: result.RetainedReleased, err: result.Err}
	}
	for base := range d.writes {
		a.mu.inFlight[base] = struct{}{}
	}
	return d
}

// endedBefore returns the names of the blocks, other than those that are known to
// be needed, in which an earlier request of the batch has ended a lease of the
// attachments: a second release depends on the same write.
func (d *decision) endedBefore(attachments []lease.Attachment, known []netip.Addr) []netip.Addr {
	var names []netip.Addr
	held := func(l lease.Lease) bool { return l.State == lease.InUse && slices.Contains(attachments, l.Attachment) }
	for base, was := range d.before {
		if !slices.Contains(known, base) && slices.ContainsFunc(was.block.Leases, held) {
			names = append(names, base)
		}
	}
	return names
}

// written is the result of writing one block.
type written struct {
	version string
	created bool
	err     error
}

// commit writes the blocks concurrently and waits for all of them.
func (a *Allocator) commit(ctx context.Context, writes map[netip.Addr]lease.Block) map[netip.Addr]written {
	results := make(map[netip.Addr]written, len(writes))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for base, b := range writes {
		wg.Go(func() {
			version, err := a.blocks.Put(ctx, b)
			mu.Lock()
			defer mu.Unlock()
			results[base] = written{version: version, created: b.Version == "", err: err}
		})
	}
	wg.Wait()
	return results
}

// applyResults updates the index with the results of the writes.
func (a *Allocator) applyResults(d decision, results map[netip.Addr]written) {
	now := a.now()
	for base, result := range results {
		seen, missed := a.mu.seenDuringWrite[base]
		delete(a.mu.inFlight, base)
		delete(a.mu.seenDuringWrite, base)
		if result.err == nil {
			b := d.writes[base]
			b.Version = result.version
			a.mu.index.Put(b, now)
			if missed && (seen == "" || a.older(b.Version, seen)) {
				a.mu.unknown[base] = struct{}{}
			}
			continue
		}
		if old, changed := d.before[base]; changed {
			if old.known {
				a.mu.index.Put(old.block, now)
			} else {
				a.mu.index.Delete(base)
			}
		}
		a.mu.unknown[base] = struct{}{}
	}
}

// countConflicts counts the conflicts with other writers, once per block.
func (a *Allocator) countConflicts(batch []*request, needs [][]netip.Addr, results map[netip.Addr]written) {
	allocations, releases := map[netip.Addr]struct{}{}, map[netip.Addr]struct{}{}
	for i, r := range batch {
		lost := allocations
		if r.change != nil {
			lost = releases
		}
		for _, base := range needs[i] {
			if errors.Is(results[base].err, ErrConflict) {
				lost[base] = struct{}{}
			}
		}
	}
	for range allocations {
		a.observer.AllocationConflict()
	}
	for range releases {
		a.observer.ReleaseConflict()
	}
}

// firstError returns the first error among the blocks that matters most: an unknown
// outcome before a conflict.
func firstError(needs []netip.Addr, results map[netip.Addr]written) error {
	var conflict error
	for _, base := range needs {
		switch err := results[base].err; {
		case err == nil:
		case errors.Is(err, ErrConflict):
			conflict = err
		default:
			return fmt.Errorf("write block %s: %w", base, err)
		}
	}
	return conflict
}

// reload reads the blocks with conflicts. A failed create means that this node does
// not know the neighbours of the block either, so reload reads the whole region.
func (a *Allocator) reload(ctx context.Context, results map[netip.Addr]written) {
	for base, result := range results {
		if result.created && errors.Is(result.err, ErrConflict) {
			if err := a.readRegion(ctx, RegionOf(base), regionTTL); err != nil {
				a.log.Warn("cannot read the blocks of a region", "region", RegionOf(base), "err", err)
			}
		}
	}
	a.reloadUnknown(ctx)
}

// reloadUnknown reads the blocks whose content is unknown. Those that cannot be
// read stay unknown.
func (a *Allocator) reloadUnknown(ctx context.Context) {
	a.mu.Lock()
	unknown := maps.Clone(a.mu.unknown)
	a.mu.Unlock()
	if err := a.read(ctx, unknown); err != nil {
		a.log.Warn("cannot read blocks again", "err", err)
	}
}

// read makes the blocks known as they are now. It goes on after an error.
func (a *Allocator) read(ctx context.Context, bases map[netip.Addr]struct{}) error {
	var errs []error
	for base := range bases {
		if _, err := a.readBlock(ctx, base); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readBlock makes a block known as it is now, and returns it: without leases where
// there is none.
func (a *Allocator) readBlock(ctx context.Context, base netip.Addr) (lease.Block, error) {
	b, err := a.blocks.Get(ctx, base)
	switch {
	case errors.Is(err, ErrNotFound):
		a.mu.Lock()
		a.drop(base)
		a.mu.Unlock()
		return lease.Block{}, nil
	case err != nil:
		return lease.Block{}, fmt.Errorf("read block %s: %w", base, err)
	default:
		a.Observe(b)
		return b, nil
	}
}

// readFixed reads the blocks with addresses fixed for the owner, which may belong to
// other nodes.
func (a *Allocator) readFixed(ctx context.Context, owner lease.Owner) error {
	if owner.IsZero() {
		return nil
	}
	blocks, err := a.blocks.FixedFor(ctx, owner)
	if err != nil {
		return fmt.Errorf("read the blocks with addresses of %s: %w", owner, err)
	}
	for _, b := range blocks {
		a.Observe(b)
	}
	return nil
}
