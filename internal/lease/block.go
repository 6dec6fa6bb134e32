package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Block is the leases of inet.BlockSize aligned addresses.
type Block struct {
	Base netip.Addr // first address (inet.BlockOf), the name of the block
	Node string     // node that created it and is preferred in it; a hint
	// Version is the store's, opaque; empty for a block that is to be created.
	Version string
	// Leases are sorted by address, at most one for an address.
	Leases []Lease
	// Damaged says what is wrong with a stored block whose leases make no sense. It
	// has none here; all its addresses count as taken, and nobody writes it.
	Damaged string
	// Compacted means that all inet.BlockSize addresses are in use and none has a
	// fixed owner. Leases is then empty to save memory. See Compact.
	Compacted bool
}

// Compact returns the block without its leases if every address is in use and none
// has a fixed owner. Any other block is returned unchanged. A compacted block needs a
// tenth of the memory; it suits blocks of other nodes, whose addresses this node only
// has to avoid.
func (b Block) Compact() Block {
	inUse := func(l Lease) bool { return l.State == InUse && l.FixedFor == "" }
	if len(b.Leases) < inet.BlockSize || slices.ContainsFunc(b.Leases, func(l Lease) bool { return !inUse(l) }) {
		return b
	}
	b.Leases, b.Compacted = nil, true
	return b
}

// Lease returns the lease of a, and false where a has none in this block.
func (b Block) Lease(a netip.Addr) (Lease, bool) {
	if i, ok := b.find(a); ok {
		return b.Leases[i], true
	}
	return Lease{}, false
}

// Release ends every lease in use by the attachment: it becomes Retained where it
// is fixed for someone and Released otherwise. Leases of another container ID
// stay, so the late DEL of an old sandbox frees nothing that lives. It returns
// the changed block and the leases as they were; none means that nothing changed.
func (b Block) Release(at Attachment, now time.Time) (Block, []Lease) {
	var ended []Lease
	for i, l := range b.Leases {
		if l.State != InUse || l.Attachment != at {
			continue
		}
		if ended == nil {
			b.Leases = slices.Clone(b.Leases)
		}
		ended = append(ended, l)
		if l.FixedFor == "" {
			b.Leases[i] = released(l.Addr, now)
			continue
		}
		b.Leases[i] = retained(l, now)
	}
	return b, ended
}

// Reclaim ends the lease that the caller judged, whatever its state, if it is
// still in the block with the same state, container ID, interface, pod UID and
// beginning. Otherwise it returns false and the same block.
func (b Block) Reclaim(judged Lease, now time.Time) (Block, bool) {
	l, ok := b.judged(judged)
	if !ok {
		return b, false
	}
	return b.with(released(l.Addr, now)), true
}

// Retain keeps the address of the lease that the caller judged for whom it is
// fixed, as Release would have. It returns false and the same block if the lease
// is not in use and fixed, or has changed as for Reclaim.
func (b Block) Retain(judged Lease, now time.Time) (Block, bool) {
	l, ok := b.judged(judged)
	if !ok || l.State != InUse || l.FixedFor == "" {
		return b, false
	}
	return b.with(retained(l, now)), true
}

// judged returns the lease if it is still the one that the caller judged.
func (b Block) judged(judged Lease) (Lease, bool) {
	l, ok := b.Lease(judged.Addr)
	same := l.State == judged.State && l.Attachment == judged.Attachment && l.PodUID == judged.PodUID && l.Since.Equal(judged.Since)
	return l, ok && same
}

// Quarantine keeps the address from being handed out before until, because the
// host with the hardware address mac answered for it. It changes nothing, and
// returns false, unless the attachment holds the address.
func (b Block) Quarantine(a netip.Addr, at Attachment, mac string, now, until time.Time) (Block, bool) {
	l, ok := b.Lease(a)
	if !ok || l.State != InUse || l.Attachment != at {
		return b, false
	}
	return b.with(Lease{Addr: a, State: Quarantined, Pool: l.Pool, Since: stamp(now), Until: stamp(until), MAC: mac}), true
}

// Removable reports whether nothing in the block is worth keeping: every lease
// is Released, or Quarantined and over, and that since at least idle.
func (b Block) Removable(now time.Time, idle time.Duration) bool {
	if b.Damaged != "" || b.Compacted {
		return false
	}
	for _, l := range b.Leases {
		switch l.State {
		case Released:
			if now.Sub(l.Since) < idle {
				return false
			}
		case Quarantined:
			if now.Sub(l.Until) < idle {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Validate returns an error if the block breaks a rule of its type: a base that
// is not aligned, a lease outside, two leases of an address, wrong order, an
// unknown state, or a lease in use without a container ID or an interface.
func (b Block) Validate() error {
	if !b.Base.IsValid() || inet.BlockOf(b.Base) != b.Base {
		return fmt.Errorf("block %s: its name is not the first of %d aligned addresses", b.Base, inet.BlockSize)
	}
	for i, l := range b.Leases {
		if !l.Addr.IsValid() || inet.BlockOf(l.Addr) != b.Base {
			return fmt.Errorf("block %s: lease %d is of %s, which is outside", b.Base, i, l.Addr)
		}
		if i > 0 && !b.Leases[i-1].Addr.Less(l.Addr) {
			return fmt.Errorf("block %s: lease of %s follows that of %s; they must be sorted, one for an address", b.Base, l.Addr, b.Leases[i-1].Addr)
		}
		switch l.State {
		case InUse:
			if l.ContainerID == "" || l.Interface == "" {
				return fmt.Errorf("block %s: lease of %s is in use by nobody: container ID %q, interface %q", b.Base, l.Addr, l.ContainerID, l.Interface)
			}
		case Retained, Released, Quarantined:
		default:
			return fmt.Errorf("block %s: lease of %s has the unknown state %q", b.Base, l.Addr, l.State)
		}
	}
	return nil
}

// find returns where in Leases a is or would have to be.
func (b Block) find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(b.Leases, a, func(l Lease, a netip.Addr) int { return l.Addr.Compare(a) })
}

// with returns the block with l in place of what its address had.
func (b Block) with(l Lease) Block {
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

// forgetting returns the block without the leases that say no more than that
// their address is free: those released at least reuseAfter ago, and quarantines
// that are over.
func (b Block) forgetting(now time.Time, reuseAfter time.Duration) Block {
	over := func(l Lease) bool {
		return l.State == Released && now.Sub(l.Since) >= reuseAfter || l.State == Quarantined && !now.Before(l.Until)
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

// stamp returns t as stores keep it: whole seconds, UTC.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
