// Package lease decides who gets which address.
//
// The truth is kept in blocks of 16 aligned addresses (inet.BlockSize), each an
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
	// Withheld: the controller is about to return the address to the cloud, or has
	// returned it. No agent grants it, and only the controller ends this state.
	Withheld State = "Withheld"
)

// Attachment identifies an interface of a sandbox, as CNI does.
type Attachment struct {
	ContainerID string
	Interface   string
}

// Holder is who holds an address.
type Holder struct {
	Attachment
	Pod    PodKey
	PodUID string
	Node   string
	// FixedFor is who gets the address back after its release, for pods with fixed
	// addresses; zero for all others.
	FixedFor Owner
}

// Lease is what is known of one address. Released leases have no Pool and no
// Holder; Retained ones keep those of the last use.
type Lease struct {
	Addr  netip.Addr
	State State
	Pool  string // the pool that the address was taken from
	Holder
	Since time.Time // when State was entered
	Until time.Time // end of a quarantine by the clock of Since; see Sightings
	MAC   string    // hardware address that answered for a quarantined address
	// WithheldBy is the SpiderCloudNetwork that withholds the address; empty in all other
	// states.
	WithheldBy string
}
