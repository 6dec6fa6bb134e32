// Package lease decides who gets which address.
//
// The truth is kept in blocks of 16 aligned addresses (ipset.BlockSize), each an
// object of its own in a store with optimistic concurrency: two writers of one
// address meet in one block, and the store lets one of them through. This package
// turns blocks and requests into the blocks to write; it never writes them.
//
//   - Block methods change one block and return a new one: release, retain,
//     quarantine, reclaim.
//   - Index is what a process knows about blocks. Choose picks addresses from it
//     for a batch of requests, at a cost that grows neither with the size of a
//     pool nor with the number of leases.
//
// What may be missing or outdated in an Index can make a plan fail at the store;
// it can never put an address into two leases.
//
// Pure: no I/O; the time is passed in. Values are not changed once they were
// handed over: methods copy.
package lease

import (
	"net/netip"
	"time"
)

// State says what an address is kept for. An address without a lease is free.
type State string

// States of a lease.
const (
	// InUse: an interface of a pod holds the address.
	InUse State = "InUse"
	// Retained: the address waits for the return of whom it is fixed for.
	Retained State = "Retained"
	// Released: the address is free, and remembered for a while so that addresses
	// released last are reused last.
	Released State = "Released"
	// Quarantined: a foreign host answered for the address.
	Quarantined State = "Quarantined"
)

// Attachment identifies an interface of a sandbox, as CNI does.
type Attachment struct {
	ContainerID string
	Interface   string
}

// Holder is who holds an address.
type Holder struct {
	Attachment
	Pod    string // "namespace/name"
	PodUID string
	Node   string
	// FixedFor is who gets the address back after its release, for pods with fixed
	// addresses: "Pod/namespace/name" (StatefulSet) or
	// "VirtualMachine/namespace/name" (KubeVirt); empty for all others.
	FixedFor string
}

// Lease is what is known of one address. Released leases have no Pool and no
// Holder; Retained ones keep those of the last use.
type Lease struct {
	Addr  netip.Addr
	State State
	Pool  string // the pool that the address was taken from
	Holder
	Since time.Time // when State was entered
	Until time.Time // end of a quarantine; the address is free from then on
	MAC   string    // hardware address that answered for a quarantined address
}

// Block is the leases of ipset.BlockSize aligned addresses.
type Block struct {
	Base netip.Addr // first address (ipset.BlockOf), the name of the block
	Node string     // node that created it and is preferred in it; a hint
	// Version is the store's, opaque; empty for a block that is to be created.
	Version string
	// Leases are sorted by address, at most one for an address.
	Leases []Lease
}

// Lease returns the lease of a, and false where a has none in this block.
func (b Block) Lease(a netip.Addr) (Lease, bool) { return Lease{}, false }

// Release ends every lease in use by the attachment: it becomes Retained where it
// is fixed for someone and Released otherwise. Leases of another container ID
// stay, so the late DEL of an old sandbox frees nothing that lives. It returns
// the changed block and the leases as they were; none means that nothing changed.
func (b Block) Release(at Attachment, now time.Time) (Block, []Lease) { return b, nil }

// Reclaim ends the lease that the caller judged, whatever its state, if it is
// still in the block with the same state, container ID, interface, pod UID and
// beginning. Otherwise it returns false and the same block.
func (b Block) Reclaim(judged Lease, now time.Time) (Block, bool) { return b, false }

// Quarantine keeps the address from being handed out before until, because the
// host with the hardware address mac answered for it. It changes nothing, and
// returns false, unless the attachment holds the address.
func (b Block) Quarantine(a netip.Addr, at Attachment, mac string, now, until time.Time) (Block, bool) {
	return b, false
}

// Removable reports whether nothing in the block is worth keeping: every lease
// is Released, or Quarantined and over, and that since at least idle.
func (b Block) Removable(now time.Time, idle time.Duration) bool { return false }

// Validate returns an error if the block breaks a rule of its type: a base that
// is not aligned, a lease outside, two leases of an address, wrong order, an
// unknown state.
func (b Block) Validate() error { return nil }
