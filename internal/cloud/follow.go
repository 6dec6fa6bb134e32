package cloud

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// shownTime is how long descriptions may lag behind the placement of an address before we repeat it. A repetition is harmless.
const shownTime = 30 * time.Second

// WrongSubnet: a pod with a fixed address runs on a node whose interface is in another subnet.
const WrongSubnet Reason = "WrongSubnet"

// FixedPool is a pool of fixed addresses, which are single addresses of one subnet. Each follows its lease: the interface of the lease's
// node has it.
type FixedPool struct {
	Name   string
	Device int
	Subnet string // ID
	IPs    inet.Set
	Leases []FixedLease // in use or retained
	Places map[netip.Addr]Placement
	// Deleting pools give their addresses back without a pause.
	Deleting bool
}

// FixedLease is the lease of a fixed address.
type FixedLease struct {
	Addr         netip.Addr
	PodUID, Node string
	// InUse leases move their address. The address of a retained one stays where it is.
	InUse bool
}

// Placement is what the cluster knows about an address.
type Placement struct {
	Interface string // that has had the address last, as the cloud has confirmed
	// PodUID is the pod that may use the address. A pod lives on one node, so a reader with an old view errs on the safe side only.
	PodUID string
}

// Following is the input of Follow.
type Following struct {
	Now      time.Time
	Devices  []int    // device indexes of all interfaces that the controller manages
	Members  []Member // answers without the effect of History.Fixing
	Pools    []FixedPool
	Held     map[netip.Addr]bool // addresses with a call whose outcome is not known
	Busy     map[string]bool     // nodes with such a call
	Since    time.Time           // answers from then on show what former processes have done
	Placed   map[netip.Addr]time.Time
	Tried    map[netip.Addr][]string // interfaces that calls of ours may have put an address on, by address
	Stops    map[string]bool         // interfaces that take no address for now, addresses that no interface takes; "" stands for all
	Idle     map[netip.Addr]time.Time
	CoolDown time.Duration
}

// Move puts an address on an interface.
type Move struct {
	Pool   string
	Addr   netip.Addr
	Node   string
	To     string   // interface
	From   []string // interfaces of the network that have, or have had, the address; empty if none is known
	PodUID string
	// Shown says that the last answers show the address on an interface of the network. Otherwise a stranger may have it by now.
	Shown bool
	// Strayed moves bring an address back that was placed: the cloud shows it elsewhere.
	Strayed bool
}

// Leave takes an address that no pod holds from an interface.
type Leave struct {
	Pool      string
	Addr      netip.Addr
	Interface string
	Node      string // empty for an interface of no member
}

// FollowPlan is what the cloud is to have.
type FollowPlan struct {
	Moves  []Move
	Leaves []Leave
	// Lost are addresses in use on an interface that the pod's node no longer has. Erase Placement.PodUID, also if no move follows.
	Lost []netip.Addr
	// Dropped are placements to remove without a call: no pool of fixed addresses has the address any more. It may be in the pool of a
	// node then, whose pods wait for no placement, so only Manage may give it back.
	Dropped []netip.Addr
	Idle    map[netip.Addr]time.Time
	// Refused are pods that cannot have their address on their node, with the reason for each.
	Refused map[netip.Addr]string
	Issues  []Issue
	Again   []string // nodes to ask about once more
}

// Follow plans where fixed addresses are to be. Applying a plan twice is harmless, and the lease alone says where an address
// belongs. The caller must do the following for an address with a known place, because its view of the leases may be old: read the lease
// from the store, and erase Placement.PodUID there, before it calls the cloud.
func Follow(in Following) FollowPlan {
	f := &following{Following: in, members: map[string]Member{}, seen: map[netip.Addr][]place{}}
	f.plan.Idle, f.plan.Refused = map[netip.Addr]time.Time{}, map[netip.Addr]string{}
	for _, m := range in.Members {
		f.members[m.Node] = m
	}
	var fixed []inet.Set
	for _, pool := range in.Pools {
		fixed = append(fixed, pool.IPs)
	}
	f.fixed = inet.Union(fixed...)
	for _, pool := range in.Pools {
		f.look(pool)
		leased := map[netip.Addr]bool{}
		for _, l := range pool.Leases {
			leased[l.Addr] = true
			if l.InUse {
				f.follow(pool, l)
			}
		}
		f.tidy(pool, leased)
	}
	return f.plan
}

type following struct {
	Following
	members map[string]Member
	seen    map[netip.Addr][]place // in the last answers
	fixed   inet.Set               // of all pools
	plan    FollowPlan
}

// place is an interface of a node.
type place struct{ iface, node string }

// look notes where the last answers show the addresses of a pool. Nothing but the controller assigns addresses to the interfaces that it manages,
// so an address on one of them is ours, also at another device index than that of the pool. Other interfaces belong to others, unless a
// placement names them: the user may have removed their device index.
func (f *following) look(pool FixedPool) {
	for _, m := range f.Members {
		if !m.Answers.exists() {
			continue
		}
		for _, i := range m.Answers.latest.Instance.Interfaces {
			for _, piece := range i.Assigned {
				if a := piece.Addr(); piece.IsSingleIP() && pool.IPs.Contains(a) && (slices.Contains(f.Devices, i.Device) && i.Subnet == pool.Subnet || pool.Places[a].Interface == i.ID) {
					f.seen[a] = append(f.seen[a], place{i.ID, m.Node})
				}
			}
			for _, a := range i.Primary {
				if a.Is6() && pool.IPs.Contains(a) && (pool.Places[a].Interface == i.ID || slices.Contains(f.Tried[a], i.ID)) {
					f.seen[a] = append(f.seen[a], place{i.ID, m.Node})
				}
			}
		}
	}
}

// shows reports whether the interface has a single address. EC2 does not tell the node's own IPv6 addresses from those that we have assigned, so
// the caller must know that the address is none of those.
func (i Interface) shows(a netip.Addr) bool {
	return slices.Contains(i.Assigned, netip.PrefixFrom(a, a.BitLen())) || a.Is6() && slices.Contains(i.Primary, a)
}

// follow plans the move of an address in use.
func (f *following) follow(pool FixedPool, l FixedLease) {
	was, m := pool.Places[l.Addr], f.members[l.Node]
	move := Move{Pool: pool.Name, Addr: l.Addr, Node: l.Node, From: f.from(was, l.Addr), PodUID: l.PodUID, Shown: len(f.seen[l.Addr]) > 0}
	if was.PodUID == l.PodUID {
		switch {
		case !m.Answers.exists(): // the address was there, and this proves nothing
			return
		case m.Answers.latest.has(was.Interface):
			if !f.strayed(m, was.Interface, l.Addr) {
				return
			}
			move.To, move.Strayed = was.Interface, true
		case m.Answers.latest.At.Before(f.since(l.Addr)):
			f.plan.Again = append(f.plan.Again, l.Node)
			return
		default:
			f.plan.Lost = append(f.plan.Lost, l.Addr)
		}
	}
	if move.To == "" {
		var ok bool
		if move.To, ok = f.target(pool, l); !ok {
			return
		}
	}
	if f.Held[l.Addr] || f.Busy[l.Node] || f.Stops[""] || f.Stops[move.To] || f.Stops[l.Addr.String()] {
		return
	}
	f.plan.Moves = append(f.plan.Moves, move)
}

// target returns the interface for an address in use. If there is none, it says why the pod waits.
func (f *following) target(pool FixedPool, l FixedLease) (iface string, ok bool) {
	m, ok := f.members[l.Node]
	if !ok || !m.Answers.exists() {
		f.refuse(l, InstanceMissing, fmt.Sprintf("node %s is not one of the SpiderCloudNetwork, or the cloud does not know its instance; check spec.nodeSelector", l.Node), ok)
		return "", false
	}
	to, ok := m.Answers.latest.interfaceAt(pool.Device)
	if !ok {
		f.refuse(l, InterfaceMissing, fmt.Sprintf("the instance of node %s has no interface with device index %d", l.Node, pool.Device), true)
		return "", false
	}
	if to.Subnet != pool.Subnet {
		f.refuse(l, WrongSubnet, fmt.Sprintf("interface %s of node %s is in %s, and the address in %s; give the pod a node whose interface is in %s: kubectl cordon %s, and delete the pod. Its successor keeps the address, or gets another one if you run spiderpoolctl release %s --force before it starts",
			to.ID, l.Node, to.Subnet, pool.Subnet, pool.Subnet, l.Node, l.Addr), false)
		return "", false
	}
	return to.ID, true
}

func (f *following) refuse(l FixedLease, reason Reason, why string, again bool) {
	f.plan.Refused[l.Addr] = why
	f.plan.Issues = append(f.plan.Issues, Issue{reason, fmt.Sprintf("a pod waits for the fixed address %s: %s", l.Addr, why), true})
	if again {
		f.plan.Again = append(f.plan.Again, l.Node)
	}
}

// from returns the interfaces that have had the address, as we know or as the last answers show. Answers may be old, so there may be several.
func (f *following) from(was Placement, a netip.Addr) (ifaces []string) {
	if was.Interface != "" {
		ifaces = append(ifaces, was.Interface)
	}
	for _, at := range f.seen[a] {
		if !slices.Contains(ifaces, at.iface) {
			ifaces = append(ifaces, at.iface)
		}
	}
	return ifaces
}

// since returns when answers begin to show the placement of an address.
func (f *following) since(a netip.Addr) time.Time {
	if at, ok := f.Placed[a]; ok {
		return at.Add(shownTime)
	}
	return f.Since
}

// strayed reports whether two answers, both since the address was placed, agree that the interface of the pod does not have it. That
// interface may have another device index than new placements.
func (f *following) strayed(m Member, iface string, a netip.Addr) bool {
	lacks := func(answer *Answer) bool {
		i, ok := answer.named(iface)
		return ok && !i.shows(a)
	}
	since := f.since(a)
	if !lacks(m.Answers.latest) || m.Answers.latest.At.Before(since) {
		return false
	}
	if m.Answers.Since(since) && lacks(m.Answers.earlier) {
		return true
	}
	f.plan.Again = append(f.plan.Again, m.Node)
	return false
}

// tidy plans to unassign the addresses that no pod has held for CoolDown.
func (f *following) tidy(pool FixedPool, leased map[netip.Addr]bool) {
	places := map[netip.Addr]place{}
	for a, seen := range f.seen {
		if pool.IPs.Contains(a) {
			places[a] = seen[0]
		}
	}
	for a, was := range pool.Places {
		if !f.fixed.Contains(a) && !f.isPrimary(a, was.Interface) {
			if !leased[a] {
				f.plan.Dropped = append(f.plan.Dropped, a)
			}
		} else if was.Interface != "" {
			places[a] = place{iface: was.Interface} // confirmed; an answer may be older
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(places), netip.Addr.Compare) {
		if leased[a] {
			continue
		}
		since, ok := f.Idle[a]
		if !ok {
			since = f.Now
		}
		f.plan.Idle[a] = since
		if !pool.Deleting && f.Now.Sub(since) < f.CoolDown || f.Held[a] || f.Stops[""] {
			continue
		}
		at := places[a]
		at.node = cmp.Or(at.node, f.nodeOf(at.iface))
		if !f.Busy[at.node] && !f.Stops[a.String()] && !f.Stops[at.iface] {
			f.plan.Leaves = append(f.plan.Leaves, Leave{pool.Name, a, at.iface, at.node})
		}
	}
}

// isPrimary reports whether the last answer shows the address as one of the node's own. No pool of a node has those.
func (f *following) isPrimary(a netip.Addr, iface string) bool {
	return slices.ContainsFunc(f.Members, func(m Member) bool {
		i, ok := m.Answers.latest.named(iface)
		return ok && slices.Contains(i.Primary, a)
	})
}

// nodeOf returns the node with the interface, or none.
func (f *following) nodeOf(iface string) string {
	for _, m := range f.Members {
		if m.Answers.latest.has(iface) {
			return m.Node
		}
	}
	return ""
}

// FixedPoolName returns the name of a pool of fixed addresses, e.g. aws-db-fixed-v4. No pool of a node has it: those end with
// a device index and the IP version.
func FixedPoolName(network, name string, family inet.Family) string {
	return fmt.Sprintf("%s-%s-fixed-v%d", network, name, int(family))
}
