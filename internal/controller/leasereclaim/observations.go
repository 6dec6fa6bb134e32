package leasereclaim

import (
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// observations are what this process has seen of the leases, by block, so that it counts
// durations by its own clock (lease.Sightings).
type observations struct {
	mu     sync.Mutex
	blocks map[string]observed
}

// observed are the sightings of one block.
type observed struct {
	leases      lease.Sightings // all leases and former sandboxes
	unwanted    lease.Sightings // those that their owner does not want
	terminating lease.Sightings // those of terminating pods
}

// look notes what the facts say about the block, and returns the sightings.
func (o *observations) look(name string, block lease.Block, facts func(lease.Lease) reclaim.Facts, now time.Time) observed {
	var unwanted, terminating []lease.Lease
	all := append([]lease.Lease{}, block.Leases...)
	for _, f := range block.Former {
		all = append(all, f.AsLease())
	}
	for _, l := range all {
		f := facts(l)
		if l.State == lease.Retained && (f.Owner == reclaim.OwnerScaledDown || f.Owner == reclaim.OwnerLeft) {
			unwanted = append(unwanted, l)
		}
		if l.State == lease.InUse && f.Pod.Terminating {
			terminating = append(terminating, l)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.blocks == nil {
		o.blocks = map[string]observed{}
	}
	was := o.blocks[name]
	seen := observed{was.leases.Next(all, now), was.unwanted.Next(unwanted, now), was.terminating.Next(terminating, now)}
	o.blocks[name] = seen
	return seen
}

func (o *observations) forget(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.blocks, name)
}

// complete adds the durations to the facts.
func (o observed) complete(facts func(lease.Lease) reclaim.Facts, now time.Time) func(lease.Lease) reclaim.Facts {
	return func(l lease.Lease) reclaim.Facts {
		f := facts(l)
		f.Age, f.Unwanted, f.Terminating = o.leases.Age(l, now), o.unwanted.Age(l, now), o.terminating.Age(l, now)
		return f
	}
}

// once returns facts that are observed once per lease.
func once(facts func(lease.Lease) reclaim.Facts) func(lease.Lease) reclaim.Facts {
	known := map[lease.Lease]reclaim.Facts{}
	return func(l lease.Lease) reclaim.Facts {
		f, ok := known[l]
		if !ok {
			f = facts(l)
			known[l] = f
		}
		return f
	}
}
