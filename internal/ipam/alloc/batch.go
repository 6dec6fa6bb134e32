package alloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"spiderpool.dev/spiderpool/internal/lease"
)

// decision is what one batch does: the blocks to write, and the requests that wait for each.
type decision struct {
	writes map[netip.Addr]lease.Block
	// before has the former blocks of the index where it was changed ahead of the writes.
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
	a.mu.Lock()
	await := slices.ContainsFunc(batch, a.awaits)
	a.mu.Unlock()
	if await {
		a.readDoubtful(ctx)
	}

	a.mu.Lock()
	d := a.decide(batch)
	a.mu.Unlock()

	began := a.config.Now()
	results := a.commit(ctx, d.writes)
	if len(d.writes) > 0 {
		a.config.Observer.Committed(len(batch), a.config.Now().Sub(began))
	}

	a.mu.Lock()
	a.applyResults(batch, d, results)
	a.mu.Unlock()
	a.countConflicts(batch, d.needs, results)

	for i, r := range batch {
		err := firstError(d.needs[i], results)
		if a.mayRetry(r, err, len(batch), d.needs[i], results) {
			retry = append(retry, r)
			continue
		}
		if err != nil {
			d.outcomes[i] = outcome{err: err}
		}
		r.done <- d.outcomes[i]
	}
	a.reload(ctx, results)
	a.readAhead(ctx, retry)
	return retry
}

// decide plans the changes and, on top of them, the allocations.
func (a *Allocator) decide(batch []*request) decision {
	now := a.config.Now().UTC().Truncate(precision)
	a.stopAvoidingAfter(a.config.Now())
	d := decision{
		writes:   map[netip.Addr]lease.Block{},
		before:   map[netip.Addr]previous{},
		needs:    make([][]netip.Addr, len(batch)),
		outcomes: make([]outcome, len(batch)),
	}
	var requests []lease.Request
	var requesters []int
	for i, r := range batch {
		if !a.mu.loaded || a.awaits(r) {
			// Also an allocation: its container may have an address already.
			d.outcomes[i].err = fmt.Errorf("the leases of the pod are unknown until the API server answers: %w", ErrNotReady)
			continue
		}
		if r.change == nil {
			if newer, ok := a.newer(r); ok {
				d.outcomes[i].err = &SupersededError{newer}
				continue
			}
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
			d.write(b)
			d.needs[i] = append(d.needs[i], b.Base)
		}
		d.outcomes[i].changed = len(d.needs[i]) > 0
		d.needs[i] = append(d.needs[i], d.endedBefore(r.releases, d.needs[i])...)
	}
	plan := a.mu.index.Choose(now, requests...)
	for _, b := range plan.Writes {
		d.write(b)
	}
	for k, i := range requesters {
		result := plan.Results[k]
		d.needs[i] = result.Blocks
		if errors.As(result.Err, new(*lease.ExhaustedError)) && len(a.mu.unread) > 0 {
			result.Err = fmt.Errorf("no address is left outside of the SpiderIPBlocks that the API server did not return: %w", ErrNotReady)
		}
		d.outcomes[i] = outcome{grants: result.Grants, retainedReleased: result.RetainedReleased, err: result.Err}
	}
	for base := range d.writes {
		a.mu.inFlight[base] = observed{}
	}
	return d
}

// write adds a block to write.
func (d *decision) write(b lease.Block) {
	b.Unread, b.Unconfirmed, b.Avoided = false, false, false
	d.writes[b.Base] = b
}

// awaits reports whether a lease of the request may be in a block whose stored content
// is in doubt: according to the index or to a write without an answer.
func (a *Allocator) awaits(r *request) bool {
	for base := range a.mu.unread {
		known, _ := a.mu.index.Block(base)
		for _, b := range append([]lease.Block{known}, a.mu.unanswered[base]...) {
			if slices.ContainsFunc(b.Leases, r.concerns) || slices.ContainsFunc(b.Former, func(f lease.Former) bool { return r.concerns(f.AsLease()) }) {
				return true
			}
		}
	}
	return false
}

// newer returns a lease granted to another sandbox of the pod after the request arrived.
func (a *Allocator) newer(r *request) (lease.Lease, bool) {
	for _, l := range a.mu.index.OfPod(r.allocation.PodUID) {
		if l.State == lease.InUse && l.ContainerID != r.allocation.ContainerID && a.mu.holdings[holdingKey{l.Addr, l.Attachment}].order > r.arrived {
			return l, true
		}
	}
	return lease.Lease{}, false
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
			version, err := a.config.Blocks.Put(ctx, b)
			mu.Lock()
			defer mu.Unlock()
			results[base] = written{version: version, created: b.Version == "", err: err}
		})
	}
	wg.Wait()
	return results
}

// applyResults updates the index with the results of the writes.
func (a *Allocator) applyResults(batch []*request, d decision, results map[netip.Addr]written) {
	now := a.config.Now()
	for base, result := range results {
		seen := a.mu.inFlight[base]
		delete(a.mu.inFlight, base)
		if old, changed := d.before[base]; changed && old.known {
			a.mu.index.Put(old.block, now)
		} else if changed {
			a.mu.index.Delete(base)
		}
		b := d.writes[base]
		switch {
		case result.err == nil:
			b.Version = result.version
			delete(a.mu.unanswered, base)
			delete(a.mu.avoided, base)
			a.store(b, now)
			if seen.any && (seen.version == "" || a.config.Older(b.Version, seen.version)) {
				a.markUnread(base, now)
			}
			continue
		case errors.Is(result.err, ErrRefused) && !seen.any:
			continue // the index is right
		case !errors.Is(result.err, ErrConflict) && !errors.Is(result.err, ErrRefused):
			late := slices.DeleteFunc(a.mu.unanswered[base], func(other lease.Block) bool { return other.Version != b.Version })
			a.mu.unanswered[base] = append(late, b)
		}
		a.markUnread(base, now)
	}
	for i, r := range batch {
		if firstError(d.needs[i], results) == nil {
			a.stampGrants(r.allocation.ContainerID, d.outcomes[i].grants)
		}
	}
}

// stampGrants notes the order of new grants.
func (a *Allocator) stampGrants(container string, grants []lease.Grant) {
	for _, g := range grants {
		key := holdingKey{g.Addr, lease.Attachment{ContainerID: container, Interface: g.Interface}}
		if h, ok := a.mu.holdings[key]; ok && !g.Held {
			a.mu.order++
			h.order = a.mu.order
			a.mu.holdings[key] = h
		}
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
		a.config.Observer.AllocationConflict()
	}
	for range releases {
		a.config.Observer.ReleaseConflict()
	}
}

// firstError returns the first error among the blocks that matters most: an unknown
// outcome before a refusal, and a refusal before a conflict.
func firstError(needs []netip.Addr, results map[netip.Addr]written) error {
	var conflict, refused error
	for _, base := range needs {
		switch err := results[base].err; {
		case err == nil:
		case errors.Is(err, ErrConflict):
			conflict = err
		case errors.Is(err, ErrRefused):
			refused = err
		default:
			return fmt.Errorf("write block %s: %w", base, err)
		}
	}
	return cmp.Or(refused, conflict)
}

// reload reads the blocks with conflicts. A failed create means that this node does
// not know the neighbours of the block either, so reload reads the whole region.
func (a *Allocator) reload(ctx context.Context, results map[netip.Addr]written) {
	regions := map[netip.Prefix]struct{}{}
	for base, result := range results {
		if result.created && errors.Is(result.err, ErrConflict) {
			regions[RegionOf(base)] = struct{}{}
		}
	}
	for region := range regions {
		if err := a.readRegion(ctx, region); err != nil {
			a.config.Log.Warn("cannot read the blocks of a region", "region", region, "err", err)
		}
	}
	a.readDoubtful(ctx)
}

// readDoubtful is ReadUnread for a batch: requests that need a block answer for it.
func (a *Allocator) readDoubtful(ctx context.Context) {
	if err := a.ReadUnread(ctx); err != nil {
		a.config.Log.Warn("cannot read blocks again", "err", err)
	}
}
