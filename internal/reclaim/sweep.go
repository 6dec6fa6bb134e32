package reclaim

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
)

// Change is a lease that is to be ended.
type Change struct {
	Lease lease.Lease // as it was
	Verdict
}

// String says what was done and why, for events.
func (c Change) String() string {
	done := "took back"
	if c.Action == Retain {
		done = "keeps for " + c.Lease.FixedFor
	}
	return fmt.Sprintf("%s %s of pool %s (%s): %s", done, c.Lease.Addr, c.Lease.Pool, c.Reason, c.Message)
}

// Sweep judges every lease of a block by the facts that are known of it. It
// returns the block to write and the changes by which it differs from b.
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
