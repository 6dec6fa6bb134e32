package reclaim

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
)

// Change is a lease to end, with the verdict that ends it.
type Change struct {
	Lease lease.Lease // before the change
	Verdict
}

// String describes the change and its reason, for events: "reclaimed 10.1.0.16 of pool a
// (PodGone): pod default/web does not exist, and node n1 has no sandbox 4f2c".
func (c Change) String() string {
	if c.Action == Retain {
		return fmt.Sprintf("retained %s of pool %s for %s (%s): %s", c.Lease.Addr, c.Lease.Pool, c.Lease.FixedFor, c.Reason, c.Message)
	}
	return fmt.Sprintf("reclaimed %s of pool %s (%s): %s", c.Lease.Addr, c.Lease.Pool, c.Reason, c.Message)
}

// Sweep judges every lease of block b by its facts. It returns the block to write
// and its differences from b.
func Sweep(b lease.Block, facts func(lease.Lease) Facts, p Policy, now time.Time) (swept lease.Block, changes []Change) {
	swept = b
	for _, l := range b.Leases {
		v := Judge(l, facts(l), p, now)
		changed := false
		switch v.Action {
		case Retain:
			swept, changed = swept.Retain(l, now)
		case Free:
			swept, changed = swept.Reclaim(l, now)
		}
		if changed {
			changes = append(changes, Change{l, v})
		}
	}
	return swept, changes
}
