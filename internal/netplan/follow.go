package netplan

import (
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// FollowNode returns the routes that a pod lacks to the addresses of its node, for
// addresses that the node got after the pod's plan, e.g. a virtual address. pod is the
// state of its namespace. In every table, the new routes equal the planned ones through
// the node: next hop, link and source. A table without any gets none.
//
// A route to an address that the node has lost stays. It looks like a route of
// hijackCIDR, and it still works: the node forwards and masquerades the packet.
func FollowNode(pod State, node Node) State {
	type table struct {
		family inet.Family
		number int
	}
	viaNode := map[table]Route{} // one example of each table
	routed := map[table][]netip.Prefix{}
	for _, it := range pod {
		r, ok := it.(Route)
		if !ok || r.IsDefault() {
			continue
		}
		t := table{inet.FamilyOf(r.Dst.Addr()), r.table()}
		// Only routes through the node have both; see viaNodeRoutes.
		if throughNode := Owned(r) && r.Via.IsValid() && r.Src.IsValid(); throughNode {
			viaNode[t] = r
		} else if !r.Dst.IsSingleIP() {
			continue // the pod's subnet, or a network behind a gateway
		}
		routed[t] = append(routed[t], r.Dst)
	}
	var missing State
	for _, p := range node.Addrs {
		a := p.Addr()
		for t, r := range viaNode {
			covers := func(dst netip.Prefix) bool { return dst.Contains(a) }
			if t.family != inet.FamilyOf(a) || r.Via == a || slices.ContainsFunc(routed[t], covers) {
				continue
			}
			r.Dst = host(a)
			missing = append(missing, r)
		}
	}
	return missing.sorted()
}

// FollowSources returns the changes of the node's routes to pods whose source the node
// no longer has, e.g. because its address changed. The node's packets to the pod would
// carry the lost address, and no answer would come back.
func FollowSources(routes []Route, node Node) Changes {
	var out Changes
	for _, old := range routes {
		has := slices.ContainsFunc(node.Addrs, func(p netip.Prefix) bool { return p.Addr() == old.Src })
		next := old
		if next.Src = node.sourceFor(old.Dst.Addr()); !has && next != old {
			out = append(out, Change{Old: old, New: next})
		}
	}
	return out
}
