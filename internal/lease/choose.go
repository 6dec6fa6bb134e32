package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Request asks for all addresses of one pod. It is granted as a whole or not at all.
type Request struct {
	Pod         PodKey
	PodUID      string
	ContainerID string
	Node        string
	FixedFor    Owner // see Holder
	Wants       []Want
	// Replaces are the UIDs of other pods of the owner from which the request may take a
	// fixed address in use. The caller has checked them at the API server.
	Replaces []string
}

// Want asks for one address of one IP family for one interface.
type Want struct {
	Interface string
	Family    inet.Family // 4 or 6
	Pools     []string    // names, best first
}

// Grant is the answer to a Want.
type Grant struct {
	Interface string
	Family    inet.Family
	Addr      netip.Addr
	Pool      string
	// Held means that the container already had the address, so the plan writes
	// nothing for it unless the block is Unconfirmed. Warning: without a write, an
	// outdated index goes unnoticed, and
	// reclaim or another node may have ended the lease. A caller with a possibly
	// outdated copy must read the block again, and choose again if the lease is gone.
	Held bool
}

// Result is the answer to a Request: either Grants, one per Want in the same order,
// or Err: an *ExhaustedError, *CrowdedError or *InUseError.
type Result struct {
	Grants []Grant
	// Blocks are the names of the Writes required for the grants; none if everything
	// was held.
	Blocks []netip.Addr
	// RetainedReleased are the former leases, retained for the request's owner and
	// released by the plan: the owner no longer asks for them.
	RetainedReleased []Lease
	Err              error
}

// Plan is the result of Choose.
type Plan struct {
	// Writes are the blocks to store, sorted by name. Create a block with an empty
	// Version; update any other one only if its version in the store is unchanged.
	Writes []Block
	// Results has one element per request, in the same order.
	Results []Result
}

// ExhaustedError means that no pool of a Want has a free address.
type ExhaustedError struct {
	Interface string
	Family    inet.Family
	Pools     []PoolUsage // in the order of the Want
}

// InUseError means that another pod of the owner, not in Request.Replaces, has an
// address in use that the request would take over.
type InUseError struct{ Lease Lease }

func (e *InUseError) Error() string {
	return fmt.Sprintf("address %s of %s is in use by pod %s with UID %s", e.Lease.Addr, e.Lease.FixedFor, e.Lease.Pod, e.Lease.PodUID)
}

// PoolUsage is the usage of one pool.
type PoolUsage struct {
	Pool string
	Usage
}

// Error names the interface, and each pool with its usage.
func (e *ExhaustedError) Error() string {
	if len(e.Pools) == 0 {
		return fmt.Sprintf("interface %s: no pool for an IPv%d address", e.Interface, e.Family)
	}
	texts := make([]string, len(e.Pools))
	for i, p := range e.Pools {
		texts[i] = p.Pool + ": " + p.String()
	}
	return fmt.Sprintf("interface %s: no IPv%d address is left: %s", e.Interface, e.Family, strings.Join(texts, "; "))
}

// String returns e.g. "16 of 16 addresses are taken: 14 in use, 1 retained, 1
// quarantined". It adds e.g. ", 2 withheld" and ", 2 of former sandboxes" where there are any.
func (u Usage) String() string {
	if u.Total == 0 {
		return "has no address to hand out"
	}
	text := fmt.Sprintf("%d of %d addresses are taken: %d in use, %d retained, %d quarantined",
		u.Total-u.Free, u.Total, u.InUse, u.Retained, u.Quarantined)
	if u.Withheld > 0 {
		text += fmt.Sprintf(", %d withheld", u.Withheld)
	}
	if u.Former > 0 {
		text += fmt.Sprintf(", %d of former sandboxes", u.Former)
	}
	return text
}

// Choose decides the requests together, so that one write of a block serves many
// of them. A request gets all its wants or nothing; a refused request leaves no
// trace in the writes. Choose does not change the index: Put the written blocks
// after the store has accepted them.
//
// A want gets the first available of:
//
//  1. the address already held by the container for the interface and IP family;
//  2. an address in use by another sandbox of the same pod (UID) for the interface,
//     or retained by it, if a wanted pool still has it: the lease moves to this
//     sandbox, a late DEL of the old one frees nothing, and the address stays out of
//     reach of other pods until the end of the old one is proved (Block.Former);
//  3. likewise, an address fixed for the same owner, in use or retained. If another
//     pod has it in use, the request fails unless Request.Replaces has this pod;
//  4. a free address of the first pool with one: first in blocks created by this
//     node, then in new blocks, then in blocks of other nodes, and last an address
//     released less than Options.ReuseAfter ago, the oldest first.
//
// If the request does not get an address retained for its owner, the plan releases
// this address, because a request asks for all addresses of its pod.
//
// Equal inputs give equal plans. Each node starts at another new block, depending
// on its name, so that nodes rarely choose the same one.
func (x *Index) Choose(now time.Time, requests ...Request) Plan {
	x.advance(now)
	t := x.newTxn(now)
	plan := Plan{Results: make([]Result, 0, len(requests))}
	for _, r := range requests {
		plan.Results = append(plan.Results, t.serve(r))
	}
	plan.Writes = t.finish()
	return plan
}

// Release returns the blocks to write to release all addresses of the attachments on
// this node (see Block.Release), sorted by name. An attachment without an address is
// no error. Release does not change the index.
func (x *Index) Release(now time.Time, attachments ...Attachment) []Block {
	t := x.newTxn(now)
	for _, at := range attachments {
		for _, base := range x.blocksOf(at) {
			b, _ := x.Block(base)
			if b, changed := b.Release(at, now); changed {
				t.put(b)
			}
		}
	}
	return t.finish()
}

// blocksOf returns the names of the blocks with a lease in use, or a former one, of the
// attachment on this node. A container belongs to one node.
func (x *Index) blocksOf(at Attachment) []netip.Addr {
	var bases []netip.Addr
	for _, l := range x.Attached(at) {
		if l.Node == x.node {
			bases = append(bases, inet.BlockOf(l.Addr))
		}
	}
	for _, a := range x.former[at] {
		base := inet.BlockOf(a)
		if slices.ContainsFunc(x.blocks[base].block.Former, func(f Former) bool { return f.Attachment == at && f.Node == x.node }) {
			bases = append(bases, base)
		}
	}
	slices.SortFunc(bases, netip.Addr.Compare)
	return slices.Compact(bases)
}

// Reclaim returns the blocks to write to end the judged leases (see Block.Reclaim),
// sorted by name. It skips leases changed since. Reclaim does not change the index.
func (x *Index) Reclaim(now time.Time, leases ...Lease) []Block {
	t := x.newTxn(now)
	for _, l := range leases {
		b, _ := x.Block(inet.BlockOf(l.Addr))
		if b, ok := b.Reclaim(l, now); ok {
			t.put(b)
		}
	}
	return t.finish()
}
