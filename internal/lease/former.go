package lease

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Former is a sandbox that lost its lease to a successor: to another sandbox of its pod,
// or to the next pod of its owner. It may still use the address, e.g. on a node that is
// cut off from the API server. It leaves the block only on proof: its DEL, its node's
// agent, or the end of its node.
type Former struct {
	Addr netip.Addr
	Holder
}

// OfFormer reports whether the lease comes from AsLease: every other lease in use has a
// pool.
func (l Lease) OfFormer() bool { return l.State == InUse && l.Pool == "" }

// MaxFormer is the maximum number of former sandboxes in a block. It bounds the size of
// a block, and the work of the admission policy that protects blocks.
const MaxFormer = 32

// AsLease returns the lease that the sandbox had, for package reclaim. Only its holder
// is known; see Lease.OfFormer.
func (f Former) AsLease() Lease {
	return Lease{Addr: f.Addr, State: InUse, Holder: f.Holder}
}

// CrowdedError means that an address cannot change hands: its block has MaxFormer former
// sandboxes.
type CrowdedError struct {
	Addr   netip.Addr
	Former []Former
}

// Error names the address, the former sandboxes and their nodes.
func (e *CrowdedError) Error() string {
	nodes := map[string]int{}
	for _, f := range e.Former {
		nodes[f.Node]++
	}
	var texts []string
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		texts = append(texts, fmt.Sprintf("%d of node %s", nodes[node], node))
	}
	return fmt.Sprintf("%s cannot change hands: %d former sandboxes may still use addresses of its SpiderIPBlock %s: %s; it can when the agent of one of these nodes has proved the end of a sandbox, or the node is deleted",
		e.Addr, len(e.Former), inet.BlockPrefix(e.Addr), strings.Join(texts, ", "))
}

// FormerOf returns the former sandboxes of an address.
func (b Block) FormerOf(a netip.Addr) []Former {
	var former []Former
	for _, f := range b.Former {
		if f.Addr == a {
			former = append(former, f)
		}
	}
	return former
}

// MayHave reports whether the former sandboxes of an address leave it to a pod with the
// UID and the owner of its fixed addresses: all of them are of the same pod or owner.
func (b Block) MayHave(a netip.Addr, podUID string, owner Owner) bool {
	return !slices.ContainsFunc(b.Former, func(f Former) bool {
		return f.Addr == a && f.PodUID != podUID && (owner.IsZero() || f.FixedFor != owner)
	})
}

// Forget removes a former sandbox from the block. It returns false and the same block if
// the block does not have it.
func (b Block) Forget(former Former) (Block, bool) {
	return b.withoutFormer(func(f Former) bool { return f == former })
}

// Mentions reports whether a lease or a former sandbox of the block belongs to the node.
func (b Block) Mentions(node string) bool {
	return slices.ContainsFunc(b.Leases, func(l Lease) bool { return l.Node == node }) ||
		slices.ContainsFunc(b.Former, func(f Former) bool { return f.Node == node })
}

// HandOver returns the block with next as the lease of its address. The former holder of
// a lease in use joins Former, and the new holder leaves it.
func (b Block) HandOver(next Lease) Block {
	b, _ = b.withoutFormer(func(f Former) bool { return f.Addr == next.Addr && f.Attachment == next.Attachment })
	if l, ok := b.Lease(next.Addr); ok && l.State == InUse && l.Attachment != next.Attachment {
		b = b.Remember(l)
	}
	return b.With(next)
}

// Remember returns the block with the holder of the lease as a former sandbox, unless
// the block has MaxFormer of them.
func (b Block) Remember(l Lease) Block {
	if len(b.Former) >= MaxFormer || slices.ContainsFunc(b.FormerOf(l.Addr), func(f Former) bool { return f.Attachment == l.Attachment }) {
		return b
	}
	b.Former = append(slices.Clone(b.Former), Former{l.Addr, l.Holder})
	slices.SortFunc(b.Former, compareFormer)
	return b
}

// withoutFormer returns the block without the former sandboxes for which drop returns
// true, and whether there were any. Former is then never nil: see BlockObject in package
// compile.
func (b Block) withoutFormer(drop func(Former) bool) (Block, bool) {
	if !slices.ContainsFunc(b.Former, drop) {
		return b, false
	}
	b.Former = slices.DeleteFunc(slices.Clone(b.Former), drop)
	return b, true
}

func (b Block) validateFormer() error {
	if len(b.Former) > MaxFormer {
		return fmt.Errorf("block %s: %d former sandboxes; at most %d are possible", b.Base, len(b.Former), MaxFormer)
	}
	for i, f := range b.Former {
		switch {
		case !f.Addr.IsValid() || inet.BlockOf(f.Addr) != b.Base:
			return fmt.Errorf("block %s: former sandbox %d of address %s is outside the block", b.Base, i, f.Addr)
		case f.ContainerID == "" || f.Interface == "":
			return fmt.Errorf("block %s: a former sandbox of %s has the container ID %q and the interface %q", b.Base, f.Addr, f.ContainerID, f.Interface)
		case i > 0 && compareFormer(b.Former[i-1], f) >= 0:
			return fmt.Errorf("block %s: the former sandboxes of %s must be sorted, each once", b.Base, f.Addr)
		}
	}
	return nil
}

func compareFormer(a, b Former) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Interface, b.Interface))
}
