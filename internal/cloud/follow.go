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
	Members  []Member // answers without the effect of History.Fixing
	Pools    []FixedPool
	Held     map[netip.Addr]bool // addresses with a call whose outcome is not known
	Busy     map[string]bool     // nodes with such a call
	Since    time.Time           // answers from then on show what former processes have done
	Placed   map[netip.Addr]time.Time
	Stops    map[string]bool // interfaces that take no address for now, addresses that no interface takes; "" stands for all
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
	Idle   map[netip.Addr]time.Time
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
	plan    FollowPlan
}

// place is an interface of a node.
type place struct{ iface, node string }

// look notes where the last answers show the addresses of a pool. Interfaces with other device indexes belong to others.
func (f *following) look(pool FixedPool) {
	for _, m := range f.Members {
		i, ok := m.Answers.latest.interfaceAt(pool.Device)
		if !ok || i.Subnet != pool.Subnet {
			continue
		}
		for _, a := range i.singles() {
			if pool.IPs.Contains(a) {
				f.seen[a] = append(f.seen[a], place{i.ID, m.Node})
			}
		}
	}
}

// singles returns the single addresses of the interface. EC2 does not tell the node's own IPv6 addresses from others.
func (i Interface) singles() []netip.Addr {
	var all []netip.Addr
	for _, piece := range i.Assigned {
		if piece.IsSingleIP() {
			all = append(all, piece.Addr())
		}
	}
	for _, a := range i.Primary {
		if a.Is6() {
			all = append(all, a)
		}
	}
	return all
}

// follow plans the move of an address in use.
func (f *following) follow(pool FixedPool, l FixedLease) {
	m, ok := f.members[l.Node]
	if !ok || !m.Answers.exists() {
		f.refuse(pool, l, InstanceMissing, fmt.Sprintf("node %s is not one of the SpiderCloudNetwork, or the cloud does not know its instance; check spec.nodeSelector", l.Node), ok)
		return
	}
	to, ok := m.Answers.latest.interfaceAt(pool.Device)
	if !ok {
		f.refuse(pool, l, InterfaceMissing, fmt.Sprintf("the instance of node %s has no interface with device index %d", l.Node, pool.Device), true)
		return
	}
	if to.Subnet != pool.Subnet {
		f.refuse(pool, l, WrongSubnet, fmt.Sprintf("interface %s of node %s is in %s, and the address in %s; give the pod a node whose interface is in %s, or run spiderpoolctl release %s",
			to.ID, l.Node, to.Subnet, pool.Subnet, pool.Subnet, l.Addr), false)
		return
	}
	was := pool.Places[l.Addr]
	move := Move{Pool: pool.Name, Addr: l.Addr, Node: l.Node, To: to.ID, From: f.from(was, l.Addr), PodUID: l.PodUID}
	if was.PodUID == l.PodUID {
		move.Strayed = true
		if !f.strayed(m, was, to.ID, l.Addr) {
			return
		}
	}
	if f.Held[l.Addr] || f.Busy[l.Node] || f.Stops[""] || f.Stops[to.ID] || f.Stops[l.Addr.String()] {
		return
	}
	f.plan.Moves = append(f.plan.Moves, move)
}

func (f *following) refuse(pool FixedPool, l FixedLease, reason Reason, why string, again bool) {
	if pool.Places[l.Addr].PodUID == l.PodUID {
		return // the address was there, and an answer that lacks the interface proves nothing
	}
	f.plan.Refused[l.Addr] = why
	f.plan.Issues = append(f.plan.Issues, Issue{reason, fmt.Sprintf("a pod waits for the fixed address %s: %s", l.Addr, why)})
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

// strayed reports whether two answers, both since the address was placed, agree that the interface of the pod's node does not
// have it.
func (f *following) strayed(m Member, was Placement, to string, a netip.Addr) bool {
	has := func(answer *Answer) (ok, present bool) {
		if answer == nil || answer.Instance == nil {
			return false, false
		}
		k := slices.IndexFunc(answer.Instance.Interfaces, func(i Interface) bool { return i.ID == to })
		return k >= 0 && slices.Contains(answer.Instance.Interfaces[k].singles(), a), k >= 0
	}
	since := f.Since
	if at, ok := f.Placed[a]; ok {
		since = at.Add(shownTime)
	}
	now, present := has(m.Answers.latest)
	if now && was.Interface == to || !present || m.Answers.latest.At.Before(since) {
		return false
	}
	before, present := has(m.Answers.earlier)
	if m.Answers.Since(since) && present && !(before && was.Interface == to) {
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
		if was.Interface != "" {
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
		at.node = cmp.Or(at.node, f.nodeOf(pool.Device, at.iface))
		if !f.Busy[at.node] {
			f.plan.Leaves = append(f.plan.Leaves, Leave{pool.Name, a, at.iface, at.node})
		}
	}
}

// nodeOf returns the node with the interface, or none.
func (f *following) nodeOf(device int, iface string) string {
	for _, m := range f.Members {
		if i, ok := m.Answers.latest.interfaceAt(device); ok && i.ID == iface {
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
