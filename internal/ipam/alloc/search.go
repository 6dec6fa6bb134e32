package alloc

import (
	"context"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

const (
	// DefaultSearchEvery is the default of Config.SearchEvery. It bounds the cost of
	// pods that wait for an address of a full pool, whatever their number.
	DefaultSearchEvery = time.Second
	// aheadTTL is the time after a read of a region during which readAhead skips it.
	aheadTTL = 10 * time.Second
	// maxRegions bounds the search of one pool: 4096 regions are 2^24 addresses.
	maxRegions = 4096
	// maxSearches bounds how often a request searches the blocks of other nodes. It
	// searches again when other requests took the free addresses that it found.
	maxSearches = 16
)

// search is the progress of one request through the regions of exhausted pools.
type search struct {
	passes int
	began  map[netip.Prefix]bool
}

// search reads the blocks of the exhausted pools until a pool has more free addresses
// than before: it may have had some, but too few for the pod. It returns true if a
// new choice may succeed.
func (a *Allocator) search(ctx context.Context, s *search, exhausted *lease.ExhaustedError) (bool, error) {
	s.passes++
	if s.passes > maxSearches {
		return false, nil
	}
	for _, usage := range exhausted.Pools {
		for region := range a.regionsOf(usage.Pool) {
			if s.began[region] {
				continue
			}
			s.began[region] = true
			if err := a.readAgain(ctx, region); err != nil {
				return false, fmt.Errorf("read the blocks in %s: %w", region, err)
			}
			a.mu.Lock()
			free := a.mu.index.Usage(usage.Pool).Free
			a.mu.Unlock()
			if free > usage.Free {
				// The same region may give again: others release while we choose.
				delete(s.began, region)
				return true, nil
			}
		}
	}
	return false, nil
}

// ReadUsage returns the usage of a pool after it has read the blocks of other nodes, in
// at most limit regions. Quarantined leaves out the addresses whose quarantine is over.
func (a *Allocator) ReadUsage(ctx context.Context, pool string, limit int) (lease.Usage, error) {
	for region := range a.regionsOf(pool) {
		if limit--; limit < 0 {
			break
		}
		if err := a.readRegion(ctx, region); err != nil {
			return lease.Usage{}, fmt.Errorf("read the blocks in %s: %w", region, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	usage := a.mu.index.Usage(pool)
	usage.Quarantined = int64(a.mu.index.Quarantined(pool, a.config.Now()))
	return usage, nil
}

// regionReads are the reads of a region.
type regionReads struct {
	read time.Time // when the last read began that succeeded; zero: never
	// next is the read that searches will share; nil while nobody asks for one.
	next *sharedRead
}

// sharedRead is a read that several requests wait for.
type sharedRead struct {
	done chan struct{} // closed at its end
	err  error
}

// regionAt returns the reads of a region; the lock is held.
func (a *Allocator) regionAt(region netip.Prefix) *regionReads {
	r, ok := a.mu.regions[region]
	if !ok {
		r = &regionReads{}
		a.mu.regions[region] = r
	}
	return r
}

// readAgain reads the blocks of a region. All callers before the start of the read
// share it, and it starts at least searchEvery after the previous one: waiting is
// better than refusing a pod because of outdated blocks.
func (a *Allocator) readAgain(ctx context.Context, region netip.Prefix) error {
	a.mu.Lock()
	if a.ctx.Err() != nil {
		a.mu.Unlock()
		return a.stopping()
	}
	r := a.regionAt(region)
	if r.next == nil {
		r.next = &sharedRead{done: make(chan struct{})}
		a.workers.Add(1)
		go a.readShared(region, r)
	}
	shared := r.next
	a.mu.Unlock()
	select {
	case <-shared.done:
		return shared.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readShared waits until the next read of a region is due and performs it.
func (a *Allocator) readShared(region netip.Prefix, r *regionReads) {
	defer a.workers.Done()
	a.mu.Lock()
	due := min(r.read.Add(a.config.SearchEvery).Sub(a.config.Now()), a.config.SearchEvery)
	a.mu.Unlock()
	if due > 0 {
		select {
		case <-time.After(due):
		case <-a.ctx.Done():
		}
	}
	a.mu.Lock()
	shared := r.next
	r.next, r.read = nil, time.Time{}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(a.ctx, commitTimeout)
	defer cancel()
	shared.err = a.readRegion(ctx, region)
	close(shared.done)
}

// readRegion reads the blocks of a region.
func (a *Allocator) readRegion(ctx context.Context, region netip.Prefix) error {
	a.mu.Lock()
	now := a.config.Now()
	was := map[netip.Addr]string{}
	for base := range blocksOf(region) {
		was[base] = a.versionOf(base)
	}
	a.mu.Unlock()
	blocks, err := a.config.Blocks.InRegion(ctx, region)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.regionAt(region).read = now
	exists := make(map[netip.Addr]bool, len(blocks))
	for _, b := range blocks {
		exists[b.Base] = true
		if known, ok := a.mu.index.Block(b.Base); !ok || known.Unread || known.Version != b.Version {
			if !a.concerns(b) {
				b = b.Compact()
			}
			a.take(b, was[b.Base], now)
		}
	}
	for base := range blocksOf(region) {
		if _, ok := a.mu.index.Block(base); ok && !exists[base] {
			a.takeAbsence(base, was[base], now)
		}
	}
	return nil
}

// blocksOf yields the names of the blocks of a region.
func blocksOf(region netip.Prefix) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for base := region.Addr(); base.IsValid() && region.Contains(base) && yield(base); {
			base = lastAddr(inet.BlockPrefix(base)).Next()
		}
	}
}

// readAhead reads regions for requests that met conflicts more than once. Without it, a
// node new to a well-used pool would learn of one region per conflict. Each retry reads
// twice as many regions as the last.
func (a *Allocator) readAhead(ctx context.Context, batch []*request) {
	for _, r := range batch {
		if r.attempts < 2 {
			continue
		}
		budget := 1 << min(r.attempts, 12)
		for _, want := range r.allocation.Wants {
			for _, name := range want.Pools {
				for region := range a.regionsOf(name) {
					a.mu.Lock()
					fresh := a.config.Now().Sub(a.regionAt(region).read) < aheadTTL
					a.mu.Unlock()
					if fresh {
						continue
					}
					if budget--; budget < 0 {
						break
					}
					if err := a.readRegion(ctx, region); err != nil {
						a.config.Log.Warn("cannot read the blocks of a region", "region", region, "err", err)
						return
					}
				}
			}
		}
	}
}

// regionsOf yields the regions of a pool, beginning at one that depends on the node, so
// that nodes rarely search in step.
func (a *Allocator) regionsOf(pool string) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		a.mu.Lock()
		usable := a.mu.index.Addresses(pool)
		a.mu.Unlock()
		var regions []netip.Prefix
		for _, r := range usable.Ranges() {
			for region := RegionOf(r.From()); len(regions) < maxRegions; {
				if n := len(regions); n == 0 || regions[n-1] != region {
					regions = append(regions, region)
				}
				last := lastAddr(region)
				if !last.IsValid() || !last.Less(r.To()) {
					break
				}
				region = RegionOf(last.Next())
			}
		}
		if len(regions) == 0 {
			return
		}
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(a.config.Node))
		start := int(hash.Sum32() % uint32(len(regions)))
		for i := range regions {
			if !yield(regions[(start+i)%len(regions)]) {
				return
			}
		}
	}
}

func lastAddr(p netip.Prefix) netip.Addr {
	return inet.OfPrefix(p).Ranges()[0].To()
}
