package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Block holds the leases of inet.BlockSize aligned addresses.
type Block struct {
	Base netip.Addr // first address (inet.BlockOf), the name of the block
	Node string     // the creating node, preferred in this block; a hint, not a lock
	// Version is the opaque version of the store; empty before creation.
	Version string
	// Leases are sorted by address, with at most one per address.
	Leases []Lease
	// Former are sandboxes that lost a lease to a successor and may still use its
	// address, sorted by address. An address with one of them is not free.
	Former []Former
	// Damaged describes the fault of a corrupt stored block. Leases is then empty,
	// all addresses count as taken, and the block is never written.
	Damaged string
	// Compacted means that all inet.BlockSize addresses are in use and none has a
	// fixed owner. Leases is then empty to save memory. See Compact.
	Compacted bool
	// Unread means that the stored block may differ. Leases are the last known ones,
	// and no free address is granted until the block is read.
	Unread bool
	// Unconfirmed means that the store may lack or lose a lease that Leases has: a write
	// without an answer may still arrive, or another client removed the lease. A grant of
	// a held lease then renews the lease with a write, which also changes the version,
	// so the store refuses a late write.
	Unconfirmed bool
	// Avoided means that the store has refused a write of this block for good, e.g. as too
	// large. No new address of it is granted.
	Avoided bool
}

// Compact returns the block without its leases if all addresses are in use and none
// has a fixed owner, and otherwise the block unchanged. A compacted block needs a
// tenth of the memory. It suits the blocks of other nodes: this node only has to
// avoid their addresses.
func (b Block) Compact() Block {
	inUse := func(l Lease) bool { return l.State == InUse && l.FixedFor.IsZero() }
	if len(b.Former) > 0 || len(b.Leases) < inet.BlockSize || slices.ContainsFunc(b.Leases, func(l Lease) bool { return !inUse(l) }) {
		return b
	}
	b.Leases, b.Compacted = nil, true
	return b
}

// Lease returns the lease of a, and false if a has no lease in this block.
func (b Block) Lease(a netip.Addr) (Lease, bool) {
	if i, ok := b.find(a); ok {
		return b.Leases[i], true
	}
	return Lease{}, false
}

// Holds reports whether the holder of a lease in use has the address in this block too,
// as its lease or as a former sandbox.
func (b Block) Holds(l Lease) bool {
	_, ok := b.HolderOf(l.Addr, l.Attachment)
	return ok
}

// HolderOf returns the lease in use of an attachment, or the lease that it had as a
// former sandbox (Former.AsLease), and false if it has neither.
func (b Block) HolderOf(a netip.Addr, at Attachment) (Lease, bool) {
	if l, ok := b.Lease(a); ok && l.State == InUse && l.Attachment == at {
		return l, true
	}
	for _, f := range b.Former {
		if f.Addr == a && f.Attachment == at {
			return f.AsLease(), true
		}
	}
	return Lease{}, false
}

// Release ends every lease in use by the attachment: a lease with a fixed owner
// becomes Retained, any other Released. Leases of another container ID stay, so a
// late DEL of an old sandbox frees nothing in use. The attachment also leaves Former.
// Release returns false and the same block if the attachment is in neither.
func (b Block) Release(at Attachment, now time.Time) (Block, bool) {
	b, changed := b.withoutFormer(func(f Former) bool { return f.Attachment == at })
	ended := false
	for i, l := range b.Leases {
		if l.State != InUse || l.Attachment != at {
			continue
		}
		if !ended {
			b.Leases, ended = slices.Clone(b.Leases), true
		}
		if l.FixedFor.IsZero() {
			b.Leases[i] = released(l.Addr, now)
			continue
		}
		b.Leases[i] = retained(l, now)
	}
	return b, changed || ended
}

// Reclaim ends the judged lease, in any state, if the block still has it with the
// same state, container ID, interface, pod UID and start. Otherwise it returns
// false and the same block.
func (b Block) Reclaim(judged Lease, now time.Time) (Block, bool) {
	l, ok := b.judged(judged)
	if !ok {
		return b, false
	}
	return b.With(released(l.Addr, now)), true
}

// Retain reserves the address of the judged lease for its owner, like Release. It
// returns false and the same block if the lease is not in use, has no owner, or
// has changed (see Reclaim).
func (b Block) Retain(judged Lease, now time.Time) (Block, bool) {
	l, ok := b.judged(judged)
	if !ok || l.State != InUse || l.FixedFor.IsZero() {
		return b, false
	}
	return b.With(retained(l, now)), true
}

// judged returns the lease, and whether it is unchanged since the judgement.
func (b Block) judged(judged Lease) (Lease, bool) {
	l, ok := b.Lease(judged.Addr)
	same := l.State == judged.State && l.Attachment == judged.Attachment && l.PodUID == judged.PodUID && l.Since.Equal(judged.Since)
	return l, ok && same
}

// Quarantine blocks the address until the given time, because a foreign host with
// the hardware address mac answered for it. If the attachment does not hold the
// address, it returns false and the same block.
func (b Block) Quarantine(a netip.Addr, at Attachment, mac string, now, until time.Time) (Block, bool) {
	l, ok := b.Lease(a)
	if !ok || l.State != InUse || l.Attachment != at {
		return b, false
	}
	return b.With(Lease{Addr: a, State: Quarantined, Pool: l.Pool, Since: stamp(now), Until: stamp(until), MAC: mac}), true
}

// Removable reports whether the block may be deleted: every lease has been Released, or
// its quarantine over, for at least idle as seen, and there is no former sandbox.
func (b Block) Removable(seen Sightings, now time.Time, idle time.Duration) bool {
	if b.Damaged != "" || b.Compacted || len(b.Former) > 0 {
		return false
	}
	return !slices.ContainsFunc(b.Leases, func(l Lease) bool {
		after, ok := l.expires(0)
		return !ok || seen.Age(l, now) < after+idle
	})
}

// Validate returns an error for an invalid block: an unaligned base, a lease or a former
// sandbox outside the block, two leases of one address, wrong order, an unknown state,
// or a lease in use or a former sandbox without a container ID or an interface.
func (b Block) Validate() error {
	if !b.Base.IsValid() || inet.BlockOf(b.Base) != b.Base {
		return fmt.Errorf("block %s: the name is not the first of %d aligned addresses", b.Base, inet.BlockSize)
	}
	for i, l := range b.Leases {
		if !l.Addr.IsValid() || inet.BlockOf(l.Addr) != b.Base {
			return fmt.Errorf("block %s: lease %d of address %s is outside the block", b.Base, i, l.Addr)
		}
		if i > 0 && !b.Leases[i-1].Addr.Less(l.Addr) {
			return fmt.Errorf("block %s: lease of %s follows the lease of %s; leases must be sorted, with one per address", b.Base, l.Addr, b.Leases[i-1].Addr)
		}
		switch l.State {
		case InUse:
			if l.ContainerID == "" || l.Interface == "" {
				return fmt.Errorf("block %s: lease of %s is in use, but has the container ID %q and the interface %q", b.Base, l.Addr, l.ContainerID, l.Interface)
			}
		case Retained, Released, Quarantined:
		case Withheld:
			if l.WithheldBy == "" || l.Holder != (Holder{}) {
				return fmt.Errorf("block %s: lease of %s is withheld by %q, for pod %q on node %q; it must name its SpiderCloudNetwork and no holder", b.Base, l.Addr, l.WithheldBy, l.Pod, l.Node)
			}
		default:
			return fmt.Errorf("block %s: lease of %s has the unknown state %q", b.Base, l.Addr, l.State)
		}
	}
	return b.validateFormer()
}

// find returns the position of a in Leases, or its insertion point and false.
func (b Block) find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(b.Leases, a, func(l Lease, a netip.Addr) int { return l.Addr.Compare(a) })
}

// With returns the block with l as the lease of its address.
func (b Block) With(l Lease) Block {
	i, ok := b.find(l.Addr)
	if ok {
		b.Leases = slices.Clone(b.Leases)
		b.Leases[i] = l
		return b
	}
	leases := make([]Lease, 0, len(b.Leases)+1)
	leases = append(leases, b.Leases[:i]...)
	leases = append(leases, l)
	b.Leases = append(leases, b.Leases[i:]...)
	return b
}

// forgetting returns the block without expired leases: those seen as released for at least
// reuseAfter, and past quarantines. Their addresses are simply free.
func (b Block) forgetting(seen Sightings, now time.Time, reuseAfter time.Duration) Block {
	over := func(l Lease) bool {
		after, ok := l.expires(reuseAfter)
		return ok && seen.Age(l, now) >= after
	}
	if slices.ContainsFunc(b.Leases, over) {
		b.Leases = slices.DeleteFunc(slices.Clone(b.Leases), over)
	}
	return b
}

func released(a netip.Addr, now time.Time) Lease {
	return Lease{Addr: a, State: Released, Since: stamp(now)}
}

func retained(l Lease, now time.Time) Lease {
	l.State, l.Since = Retained, stamp(now)
	return l
}

// stamp returns t in the precision of stores: whole seconds, UTC.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
