package lease

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Request asks for all the addresses of one pod, which are granted together or
// not at all.
type Request struct {
	Pod         string // "namespace/name"
	PodUID      string
	ContainerID string
	Node        string
	FixedFor    string // see Holder
	Wants       []Want
	// Arrived is when the runtime asked, by this node's clock. A sandbox does not
	// take over what a newer one of its pod was given since; the zero value asks for
	// no such care.
	Arrived time.Time
}

// Want is one address: of one IP version, for one interface.
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
	// Held: the request's container had the address before, and nothing need be
	// written for it. No write will tell if the index is outdated here, and reclaim
	// or another node may have ended the lease: whoever does not know its copy to be
	// the store's reads the block again, and chooses again if the lease is gone.
	Held bool
}

// Result is the answer to a Request: either Grants, one for each Want in its
// order, or Err, which is an *ExhaustedError.
type Result struct {
	Grants []Grant
	// Blocks are the names of those Writes of the plan that must succeed for the
	// grants to hold; none where everything was held.
	Blocks []netip.Addr
	// RetainedReleased are the leases, as they were, that the plan releases although
	// they were retained for the request's owner: the owner has no use for them.
	RetainedReleased []Lease
	Err              error
}

// Plan is what Choose decided.
type Plan struct {
	// Writes are the blocks to store: to create where Version is empty, else to
	// update if the version is still that one. In the order of their names.
	Writes []Block
	// Results has one for each request, in their order.
	Results []Result
}

// ExhaustedError says that no pool of a Want has an address left.
type ExhaustedError struct {
	Interface string
	Family    inet.Family
	Pools     []PoolUsage // in the order of the Want
}

// SupersededError says that a newer sandbox of the pod has an address already.
type SupersededError struct{ Lease Lease }

func (e *SupersededError) Error() string {
	return fmt.Sprintf("sandbox %s of pod %s is newer and has %s", e.Lease.ContainerID, e.Lease.Pod, e.Lease.Addr)
}

// PoolUsage is the usage of one pool.
type PoolUsage struct {
	Pool string
	Usage
}

// Error names the interface and every pool with what its addresses are used for.
func (e *ExhaustedError) Error() string {
	if len(e.Pools) == 0 {
		return fmt.Sprintf("interface %s: no pool to take an IPv%d address from", e.Interface, e.Family)
	}
	texts := make([]string, len(e.Pools))
	for i, p := range e.Pools {
		texts[i] = p.Pool + ": " + p.String()
	}
	return fmt.Sprintf("interface %s: no IPv%d address is left: %s", e.Interface, e.Family, strings.Join(texts, "; "))
}

// String returns "16 of 16 addresses are taken: 14 in use, 1 retained, 1
// quarantined".
func (u Usage) String() string {
	if u.Total == 0 {
		return "has no address to hand out"
	}
	return fmt.Sprintf("%d of %d addresses are taken: %d in use, %d retained, %d quarantined",
		u.Total-u.Free, u.Total, u.InUse, u.Retained, u.Quarantined)
}

// Choose decides about the requests together, so that one write of a block serves
// many of them. Each request gets all that it wants or nothing, and one that gets
// nothing leaves no trace in the writes. The index stays as it is; put the written
// blocks when the store has taken them.
//
// For each want, the first of these that there is:
//
//  1. what the container already holds for the interface and IP version;
//  2. what another sandbox of the same pod (UID) holds or has retained for the
//     interface, if the pool is among the wanted ones and has the address: its
//     record is taken over, and its late DEL frees nothing;
//  3. likewise what is fixed for the same owner, in use or retained;
//  4. a free address of the first pool that has one: in blocks that this node
//     created, then in blocks that nobody created yet, then in others' blocks, and
//     last those released less than Options.ReuseAfter ago, the oldest first.
//
// An address retained for the owner that the request does not get is released in
// the same plan: it asks for all that its pod is to have.
//
// Equal inputs give equal plans. Where a node starts in the blocks that nobody
// created depends on its name, so that nodes rarely meet.
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

// Release returns the blocks to write so that the attachments hold nothing any
// more on this node (see Block.Release), in the order of their names. Attachments
// that hold nothing are no error. The index stays as it is.
func (x *Index) Release(now time.Time, attachments ...Attachment) []Block {
	t := x.newTxn(now)
	for _, at := range attachments {
		for _, l := range x.Attached(at) {
			if l.Node != x.node {
				continue // a container is of one node
			}
			b, _ := x.Block(inet.BlockOf(l.Addr))
			if b, ended := b.Release(at, now); len(ended) > 0 {
				t.put(b)
			}
		}
	}
	return t.finish()
}

// Reclaim returns the blocks to write so that the leases, as they are known, have
// ended (see Block.Reclaim), in the order of their names. The index stays as it is.
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
