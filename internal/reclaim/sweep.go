package reclaim

import (
	"fmt"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
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
	if c.Lease.OfFormer() {
		return fmt.Sprintf("former sandbox %s no longer has %s (%s): %s", c.Lease.ContainerID, c.Lease.Addr, c.Reason, c.Message)
	}
	return fmt.Sprintf("reclaimed %s of pool %s (%s): %s", c.Lease.Addr, c.Lease.Pool, c.Reason, c.Message)
}

// Sweep judges every lease and every former sandbox of block b by its facts, for the
// controller. It returns the block to write, with changes at the time now, and its
// differences from b.
func Sweep(b lease.Block, facts func(lease.Lease) Facts, p Policy, now time.Time) (swept lease.Block, changes []Change) {
	swept = b
	judge := func(l lease.Lease) Verdict { return Judge(l, facts(l), p) }
	for _, f := range b.Former {
		if v := judge(f.AsLease()); v.Action == Free {
			swept, _ = swept.Forget(f)
			changes = append(changes, Change{f.AsLease(), v})
		}
	}
	for _, l := range b.Leases {
		v := judge(l)
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

// Replaces reports whether o is another address in use by the owner of the retained lease l, for the same
// interface and IP version.
func Replaces(o, l lease.Lease) bool {
	return o.State == lease.InUse && o.FixedFor == l.FixedFor && o.Interface == l.Interface && inet.FamilyOf(o.Addr) == inet.FamilyOf(l.Addr)
}

// UsedAgain reports whether o is an address in use by the owner of the retained lease l, or by the pod with the
// owner's name.
func UsedAgain(o, l lease.Lease) bool {
	return o.State == lease.InUse && (o.FixedFor == l.FixedFor || o.Pod == l.FixedFor.Key())
}

// Succeeds reports whether the pod runs as a later pod of the owner of the retained lease l, a StatefulSet. Such a
// pod has all its interfaces, so without a lease (UsedAgain) it has left Spiderpool.
func Succeeds(pod Pod, l lease.Lease) bool {
	return l.FixedFor.Kind == lease.KindPod && pod.Presence == Exists && pod.UID != l.PodUID && pod.Phase == "Running" && pod.HasAddress && !pod.Terminating
}
