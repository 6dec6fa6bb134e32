package cloud

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Reasons why an interface does not grow.
const (
	// TypeLimit: the interface has all addresses that the instance type allows.
	TypeLimit Reason = "TypeLimit"
	// UnknownType: the cloud does not tell the limits of an instance type.
	UnknownType Reason = "UnknownType"
)

// Place is where a stop holds: an interface, a subnet or, with an empty ID, everywhere. Other families go on.
type Place struct {
	ID     string
	Family inet.Family
}

// Stop says why the cloud assigns nothing at a place.
type Stop struct {
	Issue
	Due bool // the pause is over: one may try again
}

// Idle counts the pieces of a pool that it has not needed since a time.
type Idle struct {
	Since  time.Time
	Pieces int // the fewest since then
}

// Management is the input of Manage. Its Pools must have all their leases. Maps with strings as keys have the names of
// pools, unless they say otherwise.
type Management struct {
	Discovery
	Limits   map[string]Limits // by instance type
	Waiting  map[string]int64  // interfaces of pods that have no addresses yet
	MaxPods  map[string]int64  // by node; 0 for unknown
	Kept     inet.Set          // addresses that users keep from all pods: SpiderReservedIPs, and spec.excludeIPs of Pools
	Reserve  int64             // addresses to have free, in percent of those in use; at least one
	CoolDown time.Duration     // how long a piece must be unneeded before it is given back
	Idle     map[string]Idle   // of the former plan

	Returning map[string][]netip.Prefix // of the former plan, not given back yet
	Withheld  map[string]inet.Set       // addresses that are on their way back to the cloud, in the store
	Busy      map[string]bool           // nodes with a call whose outcome is not known
	Stops     map[Place]Stop
	KeepAll   bool // the cloud takes nothing back for now
	// Fragmented are subnets without room for an IPv4 prefix. Interfaces get single addresses there.
	Fragmented map[string]bool
}

// Growth is an assignment to make.
type Growth struct {
	Assignment
	Pool, Node, Subnet string
	Size               int64 // addresses of one piece
	Last               bool  // the interface takes no more pieces after these
}

// Piece is an assigned piece with its addresses for pods.
type Piece struct {
	netip.Prefix
	Addrs inet.Set
}

// Return are pieces to give back: no pool has them any more.
type Return struct {
	Pool, Node, Interface string
	Family                inet.Family
	Pieces                []Piece
}

// Prefixes returns the pieces as the cloud has them.
func (r Return) Prefixes() []netip.Prefix {
	prefixes := make([]netip.Prefix, len(r.Pieces))
	for i, p := range r.Pieces {
		prefixes[i] = p.Prefix
	}
	return prefixes
}

// ManagePlan is what the cloud is to have.
type ManagePlan struct {
	Assign []Growth // in the order of members, devices and families
	// Return has pieces that are out of their pool for long enough for all agents to know it. Withhold their addresses,
	// and only then unassign them.
	Return []Return
	// Returning are the pieces to take out of service, by pool (Discovery.Leaving).
	Returning map[string][]netip.Prefix
	Idle      map[string]Idle
	Room      map[string]int64 // addresses that the cloud would still assign on demand, by pool
	Ask       []string         // nodes whose last answer is too old to act on
	Again     []string         // nodes whose answers do not agree: ask again after Apart
	Issues    []Issue
}

// Manage plans which addresses to assign, and which to give back, so that each interface has those that pods use or wait for, and a
// reserve. It changes no pool: an assigned piece appears in the next answers, and Discover puts it into the pool.
//
// It acts only on two fresh answers that agree, on the first one for a node without pools. A piece without a lease goes
// back after the pool had too many of them for the whole of CoolDown. Pieces go back in waves: no new one begins before the last has
// ended, because each step waits for the agents of all nodes.
func Manage(in Management) ManagePlan {
	m := &management{Management: in, existing: map[string]ExistingPool{}, stopped: map[Place][]*port{}}
	m.plan.Returning, m.plan.Idle, m.plan.Room = map[string][]netip.Prefix{}, map[string]Idle{}, map[string]int64{}
	for _, pool := range in.Pools {
		m.existing[pool.Name] = pool
	}
	var all []*port
	for _, member := range in.Members {
		for _, device := range in.Devices {
			for _, family := range in.Families {
				if p, ok := m.port(in.slot(member, device, family)); ok {
					all = append(all, p)
				}
			}
		}
	}
	for _, p := range all {
		m.keepReturning(p)
	}
	m.wave = in.KeepAll || len(m.plan.Returning) > 0 || slices.ContainsFunc(all, func(p *port) bool { return p.goingBack() })
	for _, p := range all {
		m.place(p)
		m.returns(p)
	}
	m.reportStops()
	return m.plan
}

type management struct {
	Management
	existing map[string]ExistingPool
	wave     bool              // pieces are going back
	stopped  map[Place][]*port // those that need addresses, by the place that stops them
	plan     ManagePlan
}

// port is an interface in one family.
type port struct {
	slot
	Interface
	instanceType string
	limits       Limits
	have         ExistingPool
	exists       bool
	usable       inet.Set // for pods, without those of other pools, those that users keep, and those on their way back
	withheld     inet.Set
	fixed        inet.Set // of all pools of fixed addresses
	need         int64    // addresses in use and waited for, and the reserve
	demand       int64    // the same without the reserve
}

// port returns the interface of a slot. It returns false if there is none, or its subnet has no addresses of the family.
func (m *management) port(s slot) (*port, bool) {
	i, ok := s.member.Answers.latest.interfaceAt(s.device)
	have, exists := m.existing[s.name]
	from, found := m.supply(s.member.Answers.latest, s, have.Pool)
	if !ok || !found || !from.subnet.IsValid() || have.Deleting || exists && !from.fits(have) {
		return nil, false
	}
	p := &port{slot: s, Interface: i, instanceType: s.member.Answers.latest.Instance.Type, have: have, exists: exists, withheld: m.Withheld[s.name], fixed: m.Fixed}
	p.usable = from.ips.Minus(inet.Union(m.Others, m.Kept, p.withheld))
	p.demand = have.Leased.And(p.usable).Count() + m.Waiting[s.name]
	p.need = p.demand + max(1, (p.demand*m.Reserve+99)/100)
	if most := m.MaxPods[s.member.Node]; most > 0 {
		p.need = min(p.need, max(p.demand, most))
	}
	p.limits, ok = m.Limits[p.instanceType]
	if !ok {
		m.issue(UnknownType, exists, "the cloud does not tell the limits of the instance type %q of node %s, so the controller assigns nothing there; check spec.region", p.instanceType, s.member.Node)
	}
	return p, ok
}

// issue adds an issue. It degrades the network if the pool exists.
func (m *management) issue(reason Reason, exists bool, format string, args ...any) {
	issue := Issue{reason, fmt.Sprintf(format, args...), exists}
	k := slices.IndexFunc(m.plan.Issues, func(other Issue) bool { return other.Text == issue.Text })
	if k < 0 {
		m.plan.Issues = append(m.plan.Issues, issue)
	} else if !exists { // one for both families
		m.plan.Issues[k].Degrades = false
	}
}

// goingBack reports whether an assigned piece is withheld.
func (p *port) goingBack() bool {
	return slices.ContainsFunc(p.Assigned, func(piece netip.Prefix) bool { return inet.OfPrefix(piece).Overlaps(p.withheld) })
}

// keepReturning keeps the pieces of the former plan that still go back: without a lease, and not needed since.
func (m *management) keepReturning(p *port) {
	for _, piece := range m.Returning[p.name] {
		addrs := p.offered(piece)
		switch {
		case !slices.Contains(p.Assigned, piece) || p.have.Leased.Overlaps(addrs):
		case addrs.Overlaps(p.withheld) || p.usable.Minus(addrs).Count() >= p.need:
			p.usable = p.usable.Minus(addrs)
			m.plan.Returning[p.name] = append(m.plan.Returning[p.name], piece)
		}
	}
}

// offered returns the addresses of a piece that the pool may have.
func (p *port) offered(piece netip.Prefix) inet.Set {
	return offeredOf(piece, p.have.IPs).Minus(inet.Union(inet.OfAddrs(p.Primary...), p.fixed))
}

func (m *management) place(p *port) {
	if p.family == inet.IPv6 && !p.limits.Prefixes {
		// A cloud may show single IPv6 addresses as the node's own, so the pool would never have enough.
		m.issue(TypeLimit, p.exists, "the instance type %s of node %s takes no IPv6 prefixes; use a type that does, or set spec.ipVersions to [4]", p.instanceType, p.member.Node)
		return
	}
	short := p.need - p.usable.Count()
	unit, size := m.unit(p)
	slots := p.slots()
	at, stop, stopped := m.stop(p)
	if !stopped || stop.Due && short <= 0 {
		m.plan.Room[p.name] = int64(slots) * size
	}
	if short <= 0 || slots <= 0 || stopped && !stop.Due {
		m.returnCovering(p)
	}
	if short <= 0 {
		m.giveBack(p)
		return
	}
	if stopped && slots > 0 {
		m.stopped[at] = append(m.stopped[at], p)
	}
	switch {
	case slots <= 0:
		if len(m.plan.Returning[p.name]) == 0 && p.demand > p.usable.Count() {
			m.issue(TypeLimit, p.exists, "interface %s of node %s has all %d %s addresses and prefixes that the instance type %s allows, and %d pods wait; use a larger type, or another interface in spec.interfaces",
				p.ID, p.member.Node, p.limit(), p.family, p.instanceType, p.demand-p.usable.Count())
		}
	case stopped && !stop.Due:
	case m.Busy[p.member.Node] || p.goingBack() || len(m.plan.Returning[p.name]) > 0 || m.shared(p):
	case m.trusted(p):
		count := min((short+size-1)/size, int64(slots))
		m.plan.Assign = append(m.plan.Assign, Growth{
			Assignment: Assignment{Interface: p.ID, Family: p.family, Unit: unit, Count: int(count)},
			Pool:       p.name, Node: p.member.Node, Subnet: p.Subnet, Size: size, Last: count == int64(slots),
		})
	}
}

// returnCovering gives the prefixes with fixed addresses back. The caller has seen that the interface gets no further pieces now. As long
// as it does, it keeps these, or the cloud might assign them again at once.
func (m *management) returnCovering(p *port) {
	if m.KeepAll || m.Busy[p.member.Node] {
		return
	}
	for _, piece := range p.Assigned {
		if inet.FamilyOf(piece.Addr()) == p.family && m.coversFixed(piece, p.have.IPs) && !slices.Contains(m.plan.Returning[p.name], piece) {
			m.plan.Returning[p.name] = append(m.plan.Returning[p.name], piece)
		}
	}
}

// shared reports whether a pool of another owner has addresses of the interface, or users keep all of a piece. Further ones may be
// like that, too, so the interface would never have enough. Discover reports the pool.
func (m *management) shared(p *port) bool {
	others := m.Others.Minus(m.Fixed)
	return slices.ContainsFunc(p.Assigned, func(piece netip.Prefix) bool {
		if m.coversFixed(piece, p.have.IPs) {
			return false
		}
		return inet.OfPrefix(piece).Overlaps(others) || m.Kept.Overlaps(inet.OfPrefix(piece)) && m.Kept.ContainsSet(p.offered(piece))
	})
}

// unit returns what to assign, and the number of addresses in one piece.
func (m *management) unit(p *port) (Unit, int64) {
	switch {
	case !p.limits.Prefixes || p.family == inet.IPv4 && m.Fragmented[p.Subnet]:
		return Addresses, 1
	case p.family == inet.IPv6:
		return Prefixes, lease.MaxWithheld
	}
	return Prefixes, inet.BlockSize
}

func (p *port) limit() int {
	if p.family == inet.IPv6 {
		return p.limits.IPv6
	}
	return p.limits.IPv4
}

// slots returns how many more pieces the interface takes.
func (p *port) slots() int {
	n := p.limit()
	for _, a := range p.Primary {
		if inet.FamilyOf(a) == p.family {
			n--
		}
	}
	for _, piece := range slices.Concat(p.Assigned, p.Interface.Fixed) {
		if inet.FamilyOf(piece.Addr()) == p.family {
			n--
		}
	}
	return max(n, 0)
}

// stop returns the widest stop that holds for the interface.
func (m *management) stop(p *port) (at Place, stop Stop, ok bool) {
	for _, id := range []string{"", p.Subnet, p.ID} {
		at = Place{id, p.family}
		if stop, ok = m.Stops[at]; ok {
			return at, stop, true
		}
	}
	return at, stop, false
}

// trusted reports whether the answers about the interface are fresh and agree.
func (m *management) trusted(p *port) bool {
	if m.Now.Sub(p.member.Answers.latest.At) >= Apart {
		m.plan.Ask = append(m.plan.Ask, p.member.Node)
		return false
	}
	return m.agreed(p)
}

// agreed reports whether the answers about the interface agree. The first one about a node without a pool needs no other.
func (m *management) agreed(p *port) bool {
	answers := p.member.Answers
	if answers.earlier == nil && !p.exists {
		return true
	}
	earlier, ok := answers.earlier.interfaceAt(p.device)
	if !ok || earlier.ID != p.ID || !slices.Equal(earlier.Assigned, p.Assigned) {
		m.plan.Again = append(m.plan.Again, p.member.Node)
		return false
	}
	return true
}

// giveBack begins to give pieces back that the pool has not needed for CoolDown.
func (m *management) giveBack(p *port) {
	spare := m.spare(p)
	if len(spare) == 0 || m.wave {
		if idle, ok := m.Idle[p.name]; ok && len(spare) > 0 {
			m.plan.Idle[p.name] = Idle{idle.Since, min(idle.Pieces, len(spare))}
		}
		return
	}
	idle, ok := m.Idle[p.name]
	if !ok {
		idle = Idle{m.Now, len(spare)}
	}
	idle.Pieces = min(idle.Pieces, len(spare))
	if m.Now.Sub(idle.Since) >= m.CoolDown && !m.Busy[p.member.Node] && m.trusted(p) {
		m.plan.Returning[p.name] = append(m.plan.Returning[p.name], spare[:idle.Pieces]...)
		return
	}
	m.plan.Idle[p.name] = idle
}

// returns plans to give back the pieces that are out of the pool, also those that a former process has withheld.
func (m *management) returns(p *port) {
	out := Return{Pool: p.name, Node: p.member.Node, Interface: p.ID, Family: p.family}
	for _, piece := range p.Assigned {
		addrs := p.offered(piece)
		if inet.FamilyOf(piece.Addr()) == p.family && !p.have.IPs.Overlaps(addrs) && (addrs.Overlaps(p.withheld) || slices.Contains(m.plan.Returning[p.name], piece)) {
			out.Pieces = append(out.Pieces, Piece{piece, addrs})
		}
	}
	if len(out.Pieces) > 0 && m.Settled && !m.Busy[p.member.Node] && m.agreed(p) {
		m.plan.Return = append(m.plan.Return, out)
	}
}

// spare returns the pieces that the pool could lose now: without a lease, and with half a piece more than the need left, so that
// one further pod does not bring the piece back. Single addresses go first.
func (m *management) spare(p *port) []netip.Prefix {
	pieces := slices.Clone(p.Assigned)
	slices.SortStableFunc(pieces, func(a, b netip.Prefix) int {
		return cmp.Or(-cmp.Compare(a.Bits(), b.Bits()), -a.Addr().Compare(b.Addr()))
	})
	left := p.usable.Count()
	var spare []netip.Prefix
	for _, piece := range pieces {
		addrs := p.offered(piece)
		n := addrs.Count()
		switch {
		case inet.FamilyOf(piece.Addr()) != p.family || n == 0 || n > lease.MaxWithheld || !p.have.IPs.ContainsSet(addrs):
		case addrs.Overlaps(inet.Union(p.have.Leased, m.Reserved, m.Others)):
		default:
			n = addrs.And(p.usable).Count()
			if left-n >= p.need+(n+1)/2 {
				left -= n
				spare = append(spare, piece)
			}
		}
	}
	return spare
}

// reportStops adds an issue for each place where nodes need addresses and get none.
func (m *management) reportStops() {
	places := slices.SortedFunc(maps.Keys(m.stopped), func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Family, b.Family))
	})
	for _, at := range places {
		all := m.stopped[at]
		first := all[0].member.Node
		who := "node " + first
		if more := len(all) - 1; more > 0 {
			who = fmt.Sprintf("node %s and %d others", first, more)
		}
		exist := !slices.ContainsFunc(all, func(p *port) bool { return !p.exists })
		m.issue(m.Stops[at].Reason, exist, "%s needs more %s addresses: %s", who, at.Family, m.Stops[at].Text)
	}
}
