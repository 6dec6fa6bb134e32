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

// decision is what one round does: blocks to write, and who waits for which.
type decision struct {
	writes map[netip.Addr]lease.Block
	// before is what the index had where it was changed ahead of the writes.
	before map[netip.Addr]previous
	// needs are the blocks that each job's outcome depends on, by job.
	needs [][]netip.Addr
	// outcomes are final where a job needs no write, and else what holds if its
	// writes succeed.
	outcomes []outcome
}

type previous struct {
	block lease.Block
	known bool
}

// round decides about the jobs together, commits, answers those that are settled
// and returns those to decide again.
func (a *Allocator) round(jobs []*job) (again []*job) {
	if len(jobs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, commitTimeout)
	defer cancel()
	a.reloadDirty(ctx)

	a.mu.Lock()
	d := a.decide(jobs)
	a.mu.Unlock()

	results := a.commit(ctx, d.writes)

	a.mu.Lock()
	a.settle(d, results)
	a.mu.Unlock()
	a.countConflicts(jobs, d.needs, results)

	for i, j := range jobs {
		err := worst(d.needs[i], results)
		switch {
		case err == nil:
			j.done <- d.outcomes[i]
			continue
		case existed(d.needs[i], results):
			j.learned++
		default:
			j.attempts++
		}
		if errors.Is(err, ErrConflict) && j.attempts < maxAttempts && j.learned < maxLearned {
			again = append(again, j)
		} else {
			j.done <- outcome{err: err}
		}
	}
	a.reload(ctx, results)
	a.readAhead(ctx, again)
	return again
}

// existed reports whether one of the blocks was to be created and existed already.
func existed(needs []netip.Addr, results map[netip.Addr]written) bool {
	return slices.ContainsFunc(needs, func(base netip.Addr) bool {
		return results[base].created && errors.Is(results[base].err, ErrConflict)
	})
}

// decide plans the changes and, on top of them, the allocations.
func (a *Allocator) decide(jobs []*job) decision {
	now := a.now().UTC().Truncate(precision)
	d := decision{
		writes:   map[netip.Addr]lease.Block{},
		before:   map[netip.Addr]previous{},
		needs:    make([][]netip.Addr, len(jobs)),
		outcomes: make([]outcome, len(jobs)),
	}
	var requests []lease.Request
	var requesters []int
	for i, j := range jobs {
		if len(a.dirty) > 0 || !a.loaded {
			// Also an allocation: its container may have an address already.
			d.outcomes[i].err = fmt.Errorf("what is held is unknown while the API server does not answer: %w", ErrNotReady)
			continue
		}
		if j.change == nil {
			requests = append(requests, j.request)
			requesters = append(requesters, i)
			continue
		}
		for _, b := range j.change(now) {
			if _, done := d.before[b.Base]; !done {
				old, known := a.index.Block(b.Base)
				d.before[b.Base] = previous{old, known}
			}
			a.index.Put(b, now)
			d.writes[b.Base] = b
			d.needs[i] = append(d.needs[i], b.Base)
		}
		d.outcomes[i].changed = len(d.needs[i]) > 0
		d.needs[i] = append(d.needs[i], d.endedBefore(j.releases, d.needs[i])...)
	}
	plan := a.index.Choose(now, requests...)
	for _, b := range plan.Writes {
		d.writes[b.Base] = b
	}
	for k, i := range requesters {
		result := plan.Results[k]
		d.needs[i] = result.Blocks
		d.outcomes[i] = outcome{grants: result.Grants, givenUp: result.GivenUp, err: result.Err}
	}
	for base := range d.writes {
		a.writing[base] = struct{}{}
	}
	return d
}

// endedBefore returns the names of the blocks, other than those that are known to
// be needed, in which an earlier job of the round has ended a lease of the
// attachments: who releases it once more depends on the same write.
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

// written is the fate of one block.
type written struct {
	version string
	created bool
	err     error
}

// commit writes the blocks at the same time and waits for all of them.
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

// settle brings the index in line with what the store said.
func (a *Allocator) settle(d decision, results map[netip.Addr]written) {
	now := a.now()
	for base, result := range results {
		seen, missed := a.missed[base]
		delete(a.writing, base)
		delete(a.missed, base)
		if result.err == nil {
			b := d.writes[base]
			b.Version = result.version
			a.index.Put(b, now)
			if missed && (seen == "" || a.older(b.Version, seen)) {
				a.dirty[base] = struct{}{}
			}
			continue
		}
		if old, changed := d.before[base]; changed {
			if old.known {
				a.index.Put(old.block, now)
			} else {
				a.index.Delete(base)
			}
		}
		a.dirty[base] = struct{}{}
	}
}

// countConflicts counts the blocks that were lost to other writers.
func (a *Allocator) countConflicts(jobs []*job, needs [][]netip.Addr, results map[netip.Addr]written) {
	allocations, releases := map[netip.Addr]struct{}{}, map[netip.Addr]struct{}{}
	for i, j := range jobs {
		lost := allocations
		if j.change != nil {
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

// worst returns the first error among the blocks that matters most: an unknown
// outcome before a conflict.
func worst(needs []netip.Addr, results map[netip.Addr]written) error {
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

// reload reads what was lost to other writers. A block that turned out to exist
// already has neighbours that this node does not know either, so its region is
// read.
func (a *Allocator) reload(ctx context.Context, results map[netip.Addr]written) {
	for base, result := range results {
		if result.created && errors.Is(result.err, ErrConflict) {
			if err := a.readRegion(ctx, RegionOf(base), regionTTL); err != nil {
				a.log.Warn("cannot read the blocks of a region", "region", RegionOf(base), "err", err)
			}
		}
	}
	a.reloadDirty(ctx)
}

// reloadDirty reads the blocks whose content is unknown. Those that cannot be
// read stay dirty.
func (a *Allocator) reloadDirty(ctx context.Context) {
	a.mu.Lock()
	dirty := maps.Clone(a.dirty)
	a.mu.Unlock()
	if err := a.read(ctx, dirty); err != nil {
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

// readFixed makes known what is fixed for the owner, which may be in blocks of
// other nodes.
func (a *Allocator) readFixed(ctx context.Context, owner string) error {
	if owner == "" {
		return nil
	}
	blocks, err := a.blocks.FixedFor(ctx, owner)
	if err != nil {
		return fmt.Errorf("read what is kept for %s: %w", owner, err)
	}
	for _, b := range blocks {
		a.Observe(b)
	}
	return nil
}
