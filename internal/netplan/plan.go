package netplan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Rule priorities. They are below the priority of main (32766), and those of the
// pod leave room for an operator's rules before and behind them.
const (
	hostRulePriority = 1000
	podRulePriority  = 2000
)

// NIC is an interface of a pod.
type NIC struct {
	Name  string
	MAC   MAC
	MTU   int            // bytes; 0 where it is not known
	Addrs []netip.Prefix // each with the length of its subnet
	// Gateways are the next hops of the default routes, at most one of each family.
	Gateways []netip.Addr
	// Routes are the interface's other routes: destination and gateway.
	Routes []inet.Route
	// Table is the routing table that the rules of a former plan lead to; 0 is none.
	Table int
}

// Pod is what is known of a pod when a plan is made. Its interfaces are attached
// one by one, each with a configuration of its own. A plan is made for one of
// them, with the configuration of that one, and keeps what the others brought.
type Pod struct {
	NICs []NIC // the first one first, without PodVeth
	// Attached is the interface that the plan is made for.
	Attached string
	// Veth says that PodVeth is there.
	Veth bool
	// Defaults are the interfaces with a default route in the main table, that
	// which the kernel takes first.
	Defaults map[inet.Family][]string
	// Managed are the routes in the main table that former plans made through a
	// gateway, default routes excepted.
	Managed []Route
}

// Node is what is known of the pod's node.
type Node struct {
	// Addrs are the addresses under which the node serves, of all its interfaces.
	Addrs []netip.Prefix
	// IPv6 reports whether the kernel has IPv6.
	IPv6 bool
}

// Settings are the parts of the coordinator's configuration that plans depend on.
type Settings struct {
	HijackCIDR     []netip.Prefix
	ServiceCIDR    []netip.Prefix
	OverlayPodCIDR []netip.Prefix
	PolicyRoutes   []inet.Route
	// OwnPolicyRoutes says that PolicyRoutes are the attachment's own: no later
	// attachment brings them, so each has to be reachable now. Those of the cluster
	// are for the pods that reach them.
	OwnPolicyRoutes bool
	TunePodRoutes   bool
	// DefaultNIC is the interface with the default route; "" keeps the one that
	// has it, at the beginning the first.
	DefaultNIC    string
	HostRuleTable int
	RPFilter      int
	TxQueueLen    int // 0 leaves it
	VethLinkAddr  netip.Addr
	VethMTU       int // 0 leaves the kernel's default
}

// FieldError is a setting that no plan can be made from.
type FieldError struct {
	Field, Value, Reason string
}

func (e *FieldError) Error() string { return fmt.Sprintf("%s %q: %s", e.Field, e.Value, e.Reason) }

// Plan is the wanted state of a pod's namespace and the pod's part of its node's.
type Plan struct {
	Pod, Host State
	// Removable reports whether an item of the pod's namespace may go if it is
	// not wanted: what earlier plans made for the attached interface, what it
	// learned from router advertisements and, where the default route is planned,
	// the default routes that other interfaces' plugins made.
	Removable func(Item) bool
}

// Underlay plans a pod whose first interface is on the underlay. A veth pair
// joins pod and node: an interface that shares the node's physical one cannot
// talk to the node itself, and ClusterIPs are translated by the node. Every
// address of the node, every ClusterIP and every hijacked network lies behind
// the pair, every address of the pod lies behind its host end, and all
// neighbors are permanent, so that nothing waits for ARP, NDP or DAD.
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

// Overlay plans a pod whose first interface belongs to another network plugin.
// The node, ClusterIPs and overlay pods are reached through that interface, and
// so are the further interfaces' addresses from the node, whose end of the
// first interface is hostDev; "" where there is none.
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

// hop is a way out of the pod.
type hop struct {
	via    netip.Addr
	dev    string
	onLink bool
	src    netip.Addr // of routes in the main table; the zero value is the default interface's
}

// route leads to dst. The next hop itself is on the link: through itself, it would be
// out of reach, and all that lies behind it.
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
	underlay []NIC // the interfaces that are on the underlay
	tables   map[string]int
	// inner is the way to the node itself; nil where the pod has none for the family.
	viaNode func(inet.Family) *hop
}

func newBuilder(p Pod, n Node, s Settings, underlay []NIC) *builder {
	b := &builder{pod: p, node: n, settings: s, underlay: underlay, tables: tablesOf(p, s)}
	b.plan.Removable = b.removable
	return b
}

// onUnderlay reports whether the attached interface is on the underlay, and has
// addresses.
func (b *builder) onUnderlay() (NIC, bool) {
	for _, nic := range b.underlay {
		if nic.Name == b.pod.Attached {
			return nic, true
		}
	}
	return NIC{}, false
}

// vethPair plans the pair. Its attributes are those of the attachment that made
// it, which is the first one where that is on the underlay.
func (b *builder) vethPair(v VethPair) {
	s := b.settings
	filter := State{Sysctl{Path: "net/ipv4/conf/" + PodVeth + "/rp_filter", Value: fmt.Sprint(s.RPFilter)}}
	if b.pod.Veth && b.pod.Attached != b.pod.NICs[0].Name {
		s.VethMTU, s.TxQueueLen, s.VethLinkAddr, filter = 0, 0, netip.Addr{}, nil
	}
	b.plan.Host = append(b.plan.Host,
		Link{Name: v.Host, Kind: "veth", Peer: PodVeth, MAC: v.HostMAC, PeerMAC: v.PodMAC, MTU: s.VethMTU, TxQueueLen: s.TxQueueLen},
		Up{Dev: v.Host},
		Sysctl{Path: "net/ipv4/conf/" + v.Host + "/forwarding", Value: "1"},
		// A pod sends with its own addresses only; the routes to them are the proof.
		Sysctl{Path: "net/ipv4/conf/" + v.Host + "/rp_filter", Value: "1"},
		// A service whose backend is the client itself leaves by the link it came from.
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

// carriesIPv6 reports whether the kernel speaks IPv6 on a link of the MTU.
func carriesIPv6(mtu int) bool { return mtu == 0 || mtu >= minIPv6MTU }

// disableAutoconf has a link speak no IPv6 of its own: no address, so no DAD, and no
// belief in a router advertisement from the other end.
func disableAutoconf(dev string) State {
	dir := "net/ipv6/conf/" + dev + "/"
	return State{
		Sysctl{Path: dir + "addr_gen_mode", Value: "1"},
		Sysctl{Path: dir + "accept_ra", Value: "0"},
	}
}

// nicLink plans the attributes of the attached interface. Its addresses and
// gateways are ours to give, so it believes no router advertisement. Where there
// are several interfaces, each answers ARP for its own addresses only: two may be
// on one network.
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
	// The larger one of all's and the interface's value counts.
	b.plan.Pod = append(b.plan.Pod,
		Sysctl{Path: "net/ipv4/conf/all/rp_filter", Value: "0"},
		Sysctl{Path: "net/ipv4/conf/" + nic.Name + "/rp_filter", Value: fmt.Sprint(b.settings.RPFilter)})
	if b.node.IPv6 && carriesIPv6(nic.MTU) {
		b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv6/conf/" + nic.Name + "/accept_ra", Value: "0"})
	}
}

// hostRoutes plans the node's way to the attached interface's addresses, behind dev.
func (b *builder) hostRoutes(dev string, mac MAC) {
	nic, _ := b.onUnderlay()
	for _, p := range nic.Addrs {
		a := p.Addr()
		if b.viaNode(inet.FamilyOf(a)) == nil {
			continue // the pod could not answer on the way back
		}
		b.plan.Host = append(b.plan.Host,
			Neighbor{Addr: a, MAC: mac, Dev: dev},
			Route{Dst: host(a), Dev: dev, Src: b.node.sourceFor(a), Table: b.settings.HostRuleTable, Proto: Protocol})
	}
}

// sourceFor is the node's address that it talks to a from: that of the same
// subnet, else the first of the family.
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

// has reports whether an interface has an address of the family.
func (p Pod) has(f inet.Family) bool {
	return slices.ContainsFunc(p.NICs, func(n NIC) bool { return hasFamily(n, f) })
}

// Families are the IP versions of the pod's addresses.
func (p Pod) Families() []inet.Family {
	return slices.DeleteFunc([]inet.Family{inet.IPv4, inet.IPv6}, func(f inet.Family) bool { return !p.has(f) })
}

// nicOf is the interface one of whose subnets holds a.
func (p Pod) nicOf(a netip.Addr) (NIC, bool) {
	for _, nic := range p.NICs {
		if slices.ContainsFunc(nic.Addrs, func(n netip.Prefix) bool { return n.Contains(a) }) {
			return nic, true
		}
	}
	return NIC{}, false
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
