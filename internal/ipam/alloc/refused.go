package alloc

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
)

// avoidFor is for how long no new address of a block is granted after the store refused
// a write of the block for good (ErrRefused).
const avoidFor = time.Minute

// refusal is what a request knows of refused writes.
type refusal struct {
	// alone: a batch with the request was refused. The request gets a batch of its own,
	// because the content of another one may be at fault.
	alone bool
	// blocks refused the request alone. They are avoided.
	blocks []netip.Addr
}

// nextBatch returns how many of the queued requests the next batch decides.
func nextBatch(queue []*request) int {
	size := min(len(queue), maxBatch)
	if i := slices.IndexFunc(queue[:size], func(r *request) bool { return r.refusal.alone }); i >= 0 {
		return max(i, 1)
	}
	return size
}

// mayRetry reports whether the next batch decides the request again. batch is the number
// of requests in this one.
func (a *Allocator) mayRetry(r *request, err error, batch int, needs []netip.Addr, results map[netip.Addr]written) bool {
	r.attempts++
	switch {
	case r.attempts >= MaxAttempts:
		return false
	case errors.Is(err, ErrConflict):
		return true
	case !errors.Is(err, ErrRefused):
		return false
	case batch > 1:
		r.refusal.alone = true
		return true
	case r.change != nil:
		return false // it cannot use another block
	}
	refused := slices.DeleteFunc(slices.Clone(needs), func(base netip.Addr) bool { return !errors.Is(results[base].err, ErrRefused) })
	a.mu.Lock()
	defer a.mu.Unlock()
	if first := r.refusal.blocks; len(first) > 0 {
		if !slices.Equal(first, refused) {
			// Another block refuses the request, too, so the fault is not the block's.
			for _, base := range first {
				a.stopAvoiding(base)
			}
		}
		return false
	}
	for _, base := range refused {
		a.config.Log.Warn("the API server refuses to change a SpiderIPBlock; no new address of it is granted for a while",
			"spideripblock", base, "time", avoidFor, "err", err)
		a.avoid(base)
	}
	r.refusal.blocks = refused
	return true
}

// avoid stops new grants from a block, which need not exist yet.
func (a *Allocator) avoid(base netip.Addr) {
	now := a.config.Now()
	a.mu.avoided[base] = now
	b, _ := a.mu.index.Block(base)
	b.Base, b.Avoided = base, true
	a.mu.index.Put(b, now)
}

func (a *Allocator) stopAvoiding(base netip.Addr) {
	delete(a.mu.avoided, base)
	b, _ := a.mu.index.Block(base)
	b.Avoided = false
	if b.Version == "" && !b.Unread && len(b.Leases)+len(b.Former) == 0 {
		a.mu.index.Delete(base)
		return
	}
	a.mu.index.Put(b, a.config.Now())
}

// stopAvoidingAfter ends the time of avoided blocks.
func (a *Allocator) stopAvoidingAfter(now time.Time) {
	for base, since := range a.mu.avoided {
		if now.Sub(since) >= avoidFor {
			a.stopAvoiding(base)
		}
	}
}

// keepAvoiding returns the block as the index stores it.
func (a *Allocator) keepAvoiding(b lease.Block) lease.Block {
	_, b.Avoided = a.mu.avoided[b.Base]
	return b
}
