package netplan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Rule priorities. Both precede main (32766), and leave room for an operator's
// rules before and after them.
const (
	hostRulePriority = 1000
	podRulePriority  = 2000
)

// NIC is an interface of a pod.
type NIC struct {
	Name  string
	MAC   MAC
	MTU   int            // bytes; 0 if unknown
	Addrs []netip.Prefix // addresses, each with its subnet's prefix length
	// Gateways are the next hops of the default routes, at most one per family.
	Gateways []netip.Addr
	// Routes are the interface's other routes with a gateway.
	Routes []inet.Route
	// Table is the routing table assigned by an earlier plan; 0 means none.
	Table int
}

// Pod is the state of a pod before a plan. The runtime attaches its interfaces one
// by one, each with its own configuration. A plan covers one interface, with the
// configuration of that interface, and keeps the state of the others.
type Pod struct {
	NICs []NIC // in the order of attachment, without PodVeth
	// Attached is the interface to plan for.
	Attached string
	// Veth reports whether PodVeth exists.
	Veth bool
	// Masqueraded is true if the pair is of a release without ReplyMark. It stays so
	// for the life of the pod.
	Masqueraded bool
	// Defaults are the interfaces with a default route in the main table, in the
	// kernel's order of preference.
	Defaults map[inet.Family][]string
	// Managed are the routes of earlier plans in the main table with a gateway,
	// except default routes.
	Managed []Route
}

// Node is the state of the pod's node.
type Node struct {
	// Addrs are the node's addresses of global scope, on all interfaces.
	Addrs []netip.Prefix
	// IPv6 reports whether the kernel has IPv6.
	IPv6 bool
}

// Plan is the wanted state of a pod's namespace, and the pod's part of the state of
// its node.
type Plan struct {
	Pod, Host State
	// Removable reports whether an unwanted item of the pod's namespace may be
	// removed: an item of an earlier plan for the attached interface, an item
	// learned from a router advertisement or, if the plan has a default route, a
	// default route made by another interface's plugin.
	Removable func(Item) bool
}

// Underlay plans a pod with its first interface on the underlay. A veth pair
// connects pod and node, because an ipvlan or macvlan interface cannot reach its
// own node, and because the node translates ClusterIPs. The pod routes every
// address of the node, every ClusterIP and every hijacked network through the
// pair, and the node routes every address of the pod through its end. All
// neighbors are permanent, so nothing waits for ARP, NDP or DAD.
func Underlay(p Pod, n Node, s Settings, v VethPair) (Plan, error) {
	if err := s.check(p, n); err != nil {
		return Plan{}, err
	}
	b := newBuilder(p, n, s, p.NICs)
	b.viaNode = func(f inet.Family) *hop {
		if f == inet.IPv6 {
			return &hop{via: vethGateway6, dev: PodVeth}
		}
		return &hop{via: vethGateway4, dev: PodVeth, onLink: true}
	}
	b.vethPair(v)
	b.podRoutes()
	b.nicLink()
	b.hostRoutes(v.Host, v.PodMAC)
	return b.plan, nil
}

// Overlay plans a pod with its first interface made by another network plugin. The
// pod reaches the node, ClusterIPs and overlay pods through that interface, and
// the node reaches the addresses of the other interfaces through it. hostDev is
// the node's end of the first interface, or "" without one.
func Overlay(p Pod, n Node, s Settings, hostDev string) (Plan, error) {
	if err := s.check(p, n); err != nil {
		return Plan{}, err
	}
	first := p.NICs[0]
	b := newBuilder(p, n, s, p.NICs[1:])
	b.viaNode = func(f inet.Family) *hop {
		if !hasFamily(first, f) {
			return nil
		}
		via := first.gateway(f)
		return &hop{via: via, dev: first.Name, onLink: via.Is4(), src: first.addr(f)}
	}
	if len(p.NICs) > 1 {
		b.podRoutes()
		b.nicLink()
	}
	if hostDev != "" {
		b.hostRoutes(hostDev, first.MAC)
	}
	return b.plan, nil
}

// hop is a next hop of the pod.
type hop struct {
	via    netip.Addr
	dev    string
	onLink bool
	src    netip.Addr // of routes in the main table; zero means the default interface's address
}

// route returns the route to dst through h. The route to the next hop itself is a
// link route: a gateway route through itself would make it unreachable, and with
// it everything behind it.
func (h *hop) route(dst netip.Prefix, src netip.Addr, table int) Route {
	if dst == host(h.via) {
		return Route{Dst: dst, Dev: h.dev, Src: src, Table: table, Proto: Protocol}
	}
	return Route{Dst: dst, Via: h.via, Dev: h.dev, Src: src, Table: table, OnLink: h.onLink, Proto: Protocol}
}

type builder struct {
	pod      Pod
	node     Node
	settings Settings
	plan     Plan
	underlay []NIC // the interfaces on the underlay
	tables   map[string]int
	// viaNode returns the next hop to the node, or nil if the pod has none for the
	// family.
	viaNode func(inet.Family) *hop
}

func newBuilder(p Pod, n Node, s Settings, underlay []NIC) *builder {
	b := &builder{pod: p, node: n, settings: s, underlay: underlay, tables: tablesOf(p, s)}
	b.plan.Removable = b.removable
	return b
}

// onUnderlay returns the attached interface, if it is on the underlay and has
// addresses.
func (b *builder) onUnderlay() (NIC, bool) {
	for _, nic := range b.underlay {
		if nic.Name == b.pod.Attached {
			return nic, true
		}
	}
	return NIC{}, false
}

// vethPair plans the pair. Its attributes come from the attachment that made it:
// the first one, if that is on the underlay.
func (b *builder) vethPair(v VethPair) {
	s, group := b.settings, 0
	if !b.pod.Masqueraded {
		group = ReplyGroup
		b.replies()
		s.RPFilter = 0 // even a loose filter drops the clients of NodePorts on a link without an address
	}
	filter := State{Sysctl{Path: "net/ipv4/conf/" + PodVeth + "/rp_filter", Value: fmt.Sprint(s.RPFilter)}}
	if b.pod.Veth && b.pod.Attached != b.pod.NICs[0].Name {
		s.VethMTU, s.TxQueueLen, s.VethLinkAddr, filter = 0, 0, netip.Addr{}, nil
	}
	b.plan.Host = append(b.plan.Host,
		Link{Name: v.Host, Kind: "veth", Peer: PodVeth, MAC: v.HostMAC, PeerMAC: v.PodMAC, MTU: s.VethMTU, TxQueueLen: s.TxQueueLen, Group: group},
		Up{Dev: v.Host},
		Sysctl{Path: "net/ipv4/conf/" + v.Host + "/forwarding", Value: "1"},
		// Strict: a pod may only send from its own addresses, those with a route here.
		Sysctl{Path: "net/ipv4/conf/" + v.Host + "/rp_filter", Value: "1"},
		// A service with the client itself as its backend is sent back by the same link.
		Sysctl{Path: "net/ipv4/conf/" + v.Host + "/send_redirects", Value: "0"})
	b.plan.Pod = append(b.plan.Pod,
		Link{Name: PodVeth, MAC: v.PodMAC, MTU: s.VethMTU, TxQueueLen: s.TxQueueLen},
		Up{Dev: PodVeth},
		Neighbor{Addr: vethGateway4, MAC: v.HostMAC, Dev: PodVeth})
	b.plan.Pod = append(b.plan.Pod, filter...)
	if b.pod.has(inet.IPv6) || s.VethLinkAddr.Is6() {
		b.plan.Host = append(b.plan.Host, Sysctl{Path: "net/ipv6/conf/" + v.Host + "/disable_ipv6", Value: "0"})
		b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv6/conf/" + PodVeth + "/disable_ipv6", Value: "0"},
			Neighbor{Addr: vethGateway6, MAC: v.HostMAC, Dev: PodVeth})
	}
	if b.node.IPv6 && carriesIPv6(b.settings.VethMTU) {
		b.plan.Host = append(b.plan.Host, disableAutoconf(v.Host)...)
		b.plan.Pod = append(b.plan.Pod, disableAutoconf(PodVeth)...)
	}
	if a := s.VethLinkAddr; a.IsValid() {
		b.plan.Pod = append(b.plan.Pod, Addr{Prefix: host(a), Dev: PodVeth})
	}
}

// carriesIPv6 reports whether the kernel supports IPv6 on a link with this MTU.
func carriesIPv6(mtu int) bool { return mtu == 0 || mtu >= minIPv6MTU }

// disableAutoconf turns off IPv6 autoconfiguration of a link: it gets no link-local
// address, so no DAD, and ignores router advertisements from the other end.
func disableAutoconf(dev string) State {
	dir := "net/ipv6/conf/" + dev + "/"
	return State{
		Sysctl{Path: dir + "addr_gen_mode", Value: "1"},
		Sysctl{Path: dir + "accept_ra", Value: "0"},
	}
}

// nicLink plans the attributes of the attached interface. We assign its addresses
// and gateways, so it ignores router advertisements. With several interfaces, each
// answers ARP only for its own addresses, because two can be on the same network.
func (b *builder) nicLink() {
	for _, nic := range b.underlay {
		if len(b.pod.NICs) > 1 {
			b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv4/conf/" + nic.Name + "/arp_ignore", Value: "1"})
		}
	}
	nic, ok := b.onUnderlay()
	if !ok {
		return
	}
	if b.settings.TxQueueLen != 0 {
		b.plan.Pod = append(b.plan.Pod, Link{Name: nic.Name, TxQueueLen: b.settings.TxQueueLen})
	}
	// The kernel uses the maximum of conf.all and conf.<interface>.
	b.plan.Pod = append(b.plan.Pod,
		Sysctl{Path: "net/ipv4/conf/all/rp_filter", Value: "0"},
		Sysctl{Path: "net/ipv4/conf/" + nic.Name + "/rp_filter", Value: fmt.Sprint(b.settings.RPFilter)})
	if b.node.IPv6 && carriesIPv6(nic.MTU) {
		b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv6/conf/" + nic.Name + "/accept_ra", Value: "0"})
	}
}

// hostRoutes plans the node's routes to the addresses of the attached interface,
// through dev.
func (b *builder) hostRoutes(dev string, mac MAC) {
	nic, _ := b.onUnderlay()
	for _, p := range nic.Addrs {
		a := p.Addr()
		if b.viaNode(inet.FamilyOf(a)) == nil {
			continue // the pod has no route back
		}
		b.plan.Host = append(b.plan.Host,
			Neighbor{Addr: a, MAC: mac, Dev: dev},
			Route{Dst: host(a), Dev: dev, Src: b.node.sourceFor(a), Table: b.settings.HostRuleTable, Proto: Protocol})
	}
}

// sourceFor returns the node's source address for packets to a: its address in the
// same subnet, or else its first address of the family.
func (n Node) sourceFor(a netip.Addr) netip.Addr {
	var first netip.Addr
	for _, p := range n.Addrs {
		switch {
		case p.Contains(a):
			return p.Addr()
		case !first.IsValid() && inet.FamilyOf(p.Addr()) == inet.FamilyOf(a):
			first = p.Addr()
		}
	}
	return first
}

// has reports whether any interface has an address of the family.
func (p Pod) has(f inet.Family) bool {
	return slices.ContainsFunc(p.NICs, func(n NIC) bool { return hasFamily(n, f) })
}

// Families returns the IP families of the pod's addresses.
func (p Pod) Families() []inet.Family {
	return slices.DeleteFunc([]inet.Family{inet.IPv4, inet.IPv6}, func(f inet.Family) bool { return !p.has(f) })
}

// nextHop returns the interface for routes through gw, or the reason why the pod
// cannot have such routes.
func (p Pod) nextHop(gw netip.Addr) (nic NIC, fault string) {
	for _, nic := range p.NICs {
		if i := slices.IndexFunc(nic.Addrs, func(n netip.Prefix) bool { return n.Contains(gw) }); i >= 0 {
			return nic, inet.NextHopFault(gw, nic.Addrs[i].Masked())
		}
	}
	return NIC{}, "is in no subnet of the pod's interfaces (" + p.subnets() + ")"
}

// holds reports whether a is an address of the interface.
func (n NIC) holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (n NIC) gateway(f inet.Family) netip.Addr {
	for _, g := range n.Gateways {
		if inet.FamilyOf(g) == f {
			return g
		}
	}
	return netip.Addr{}
}

func (n NIC) addr(f inet.Family) netip.Addr {
	for _, p := range n.Addrs {
		if inet.FamilyOf(p.Addr()) == f {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func hasFamily(n NIC, f inet.Family) bool { return n.addr(f).IsValid() }

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
