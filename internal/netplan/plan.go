package netplan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Rule priorities. They are below the priority of main (32766), and those of the
// pod leave room for an operator's rules before and behind them.
const (
	hostRulePriority = 1000
	podRulePriority  = 2000
)

// firstPodTable is the routing table of a pod's first interface; the next one
// has the next table.
const firstPodTable = 100

// NIC is an interface of a pod.
type NIC struct {
	Name  string
	MAC   MAC
	Addrs []netip.Prefix // each with the length of its subnet
	// Gateways are the next hops of the default routes, at most one of each family.
	Gateways []netip.Addr
	// Routes are the interface's other routes: destination and gateway.
	Routes []Hop
}

// Hop is a destination with its gateway; an invalid gateway is an on-link destination.
type Hop struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Pod is what is known of a pod when a plan is made.
type Pod struct {
	NICs []NIC // in the order in which they were attached, without PodVeth
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
	PolicyRoutes   []Hop
	TunePodRoutes  bool
	DefaultNIC     string // name of the interface with the default route; "" is the first
	HostRuleTable  int
	RPFilter       int
	TxQueueLen     int // 0 leaves it
	VethLinkAddr   netip.Addr
	VethMTU        int // 0 leaves the kernel's default
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
	// not wanted: what earlier plans made and, where the default route moves,
	// the default routes that the interfaces' own plugins made.
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
	b := builder{pod: p, node: n, settings: s, plan: Plan{Removable: Owned}, underlay: p.NICs}
	b.inner = func(f Family) *hop {
		if f == IPv6 {
			return &hop{via: vethGateway6, dev: PodVeth}
		}
		return &hop{via: vethGateway4, dev: PodVeth, onLink: true}
	}
	b.vethPair(v)
	b.podRoutes()
	b.podLinks()
	b.hostRoutes(p.NICs, v.Host, v.PodMAC)
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
	b := builder{pod: p, node: n, settings: s, plan: Plan{Removable: Owned}, underlay: p.NICs[1:]}
	b.inner = func(f Family) *hop {
		if !hasFamily(first, f) {
			return nil
		}
		via := first.gateway(f)
		return &hop{via: via, dev: first.Name, onLink: via.Is4(), src: first.addr(f)}
	}
	if len(p.NICs) > 1 {
		b.podRoutes()
		b.podLinks()
	}
	if hostDev != "" {
		b.hostRoutes(p.NICs[1:], hostDev, first.MAC)
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

func (h *hop) route(dst netip.Prefix, src netip.Addr, table int) Route {
	return Route{Dst: dst, Via: h.via, Dev: h.dev, Src: src, Table: table, OnLink: h.onLink, Proto: Protocol}
}

type builder struct {
	pod      Pod
	node     Node
	settings Settings
	plan     Plan
	underlay []NIC // the interfaces that are on the underlay
	// inner is the way to the node itself; nil where the pod has none for the family.
	inner func(Family) *hop
}

func (b *builder) vethPair(v VethPair) {
	s := b.settings
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
	if b.node.IPv6 {
		b.plan.Host = append(b.plan.Host, quietIPv6(v.Host)...)
		b.plan.Pod = append(b.plan.Pod, quietIPv6(PodVeth)...)
		b.plan.Pod = append(b.plan.Pod, Neighbor{Addr: vethGateway6, MAC: v.HostMAC, Dev: PodVeth})
	}
	if a := s.VethLinkAddr; a.IsValid() {
		b.plan.Pod = append(b.plan.Pod, Addr{Prefix: host(a), Dev: PodVeth})
	}
}

// quietIPv6 has a link speak IPv6 without an address of its own, so without
// DAD, and without believing a router advertisement from the other end.
func quietIPv6(dev string) State {
	dir := "net/ipv6/conf/" + dev + "/"
	return State{
		Sysctl{Path: dir + "disable_ipv6", Value: "0"},
		Sysctl{Path: dir + "addr_gen_mode", Value: "1"},
		Sysctl{Path: dir + "accept_ra", Value: "0"},
	}
}

// podRoutes plans the main table and, for several interfaces, a table and rules
// for each, so that a reply leaves where its request came in.
func (b *builder) podRoutes() {
	nets := b.innerNetworks()
	def := b.defaultNIC()
	for _, f := range []Family{IPv4, IPv6} {
		if !slices.ContainsFunc(b.pod.NICs, func(n NIC) bool { return hasFamily(n, f) }) {
			continue
		}
		src := def.addr(f)
		if !src.IsValid() {
			src = b.pod.NICs[slices.IndexFunc(b.pod.NICs, func(n NIC) bool { return hasFamily(n, f) })].addr(f)
		}
		b.innerRoutes(nets, f, src, 0)
		if gw := def.gateway(f); gw.IsValid() && b.moves(def) {
			b.plan.Pod = append(b.plan.Pod, Route{Dst: everything(f), Via: gw, Dev: def.Name, OnLink: onLink(def, gw), Proto: Protocol})
		}
	}
	b.policyRoutes(0)
	b.plan.Removable = func(it Item) bool {
		r, ok := it.(Route)
		return Owned(it) || ok && b.moves(def) && r.IsDefault() && r.table() == TableMain &&
			r.Dev != def.Name && def.gateway(FamilyOf(r.Dst.Addr())).IsValid()
	}
	if !b.tuned() {
		return
	}
	for i, nic := range b.pod.NICs {
		b.nicTable(nic, firstPodTable+i, nets)
	}
}

// tuned reports whether the interfaces get tables of their own.
func (b *builder) tuned() bool { return b.settings.TunePodRoutes && len(b.pod.NICs) > 1 }

// moves reports whether the default route is to be by nic, whatever the
// interfaces' own plugins made of it.
func (b *builder) moves(nic NIC) bool { return b.tuned() && nic.Name == b.settings.DefaultNIC }

// nicTable plans the table of one interface and the rules that lead to it.
func (b *builder) nicTable(nic NIC, table int, nets []netip.Prefix) {
	st := &b.plan.Pod
	seen := map[Family]bool{}
	for _, p := range nic.Addrs {
		f := FamilyOf(p.Addr())
		*st = append(*st, Rule{Family: f, Priority: podRulePriority, From: host(p.Addr()), Table: table, Proto: Protocol})
		if p.Masked() != host(p.Addr()) {
			*st = append(*st, Route{Dst: p.Masked(), Dev: nic.Name, Src: p.Addr(), Table: table, Proto: Protocol})
		}
		if seen[f] {
			continue
		}
		seen[f] = true
		if gw := nic.gateway(f); gw.IsValid() {
			*st = append(*st, Route{Dst: everything(f), Via: gw, Dev: nic.Name, Table: table, OnLink: onLink(nic, gw), Proto: Protocol})
		}
		b.innerRoutes(nets, f, p.Addr(), table)
	}
	for _, r := range nic.Routes {
		if seen[FamilyOf(r.Dst.Addr())] {
			*st = append(*st, Route{Dst: r.Dst, Via: r.Via, Dev: nic.Name, Table: table, OnLink: onLink(nic, r.Via), Proto: Protocol})
		}
	}
	b.policyRoutes(table)
}

// onLink reports whether the gateway needs to be told to be on the link: no
// subnet of the interface holds it, as with plugins whose gateway is a label.
func onLink(nic NIC, gw netip.Addr) bool {
	return gw.Is4() && !slices.ContainsFunc(nic.Addrs, func(p netip.Prefix) bool { return p.Contains(gw) })
}

// innerNetworks are the networks behind the node, and the node's own addresses
// where these do not hold them. A network of overlay pods that overlaps a
// subnet of the underlay is no overlay: clusters have that where the underlay is
// the pod network that Kubernetes was told of.
func (b *builder) innerNetworks() []netip.Prefix {
	nets := slices.Concat(b.settings.ServiceCIDR, b.settings.HijackCIDR)
	for _, o := range b.settings.OverlayPodCIDR {
		if !slices.ContainsFunc(b.underlay, func(n NIC) bool {
			return slices.ContainsFunc(n.Addrs, func(a netip.Prefix) bool { return a.Masked().Overlaps(o) })
		}) {
			nets = append(nets, o)
		}
	}
	out := slices.Clone(nets)
	for _, p := range b.node.Addrs {
		if !slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(p.Addr()) }) {
			out = append(out, host(p.Addr()))
		}
	}
	slices.SortFunc(out, comparePrefix)
	return slices.Compact(out)
}

func (b *builder) innerRoutes(nets []netip.Prefix, f Family, src netip.Addr, table int) {
	h := b.inner(f)
	if h == nil {
		return
	}
	if table == 0 && h.src.IsValid() {
		src = h.src
	}
	for _, n := range nets {
		if FamilyOf(n.Addr()) == f {
			b.plan.Pod = append(b.plan.Pod, h.route(n.Masked(), src, table))
		}
	}
}

func (b *builder) policyRoutes(table int) {
	for _, r := range b.settings.PolicyRoutes {
		nic, ok := b.pod.nicOf(r.Via)
		if ok {
			b.plan.Pod = append(b.plan.Pod, Route{Dst: r.Dst, Via: r.Via, Dev: nic.Name, Table: table, Proto: Protocol})
		}
	}
}

// podLinks plans the attributes of the pod's interfaces.
func (b *builder) podLinks() {
	filter := fmt.Sprint(b.settings.RPFilter)
	devs := []string{"all"}
	for _, nic := range b.pod.NICs {
		devs = append(devs, nic.Name)
		if b.settings.TxQueueLen != 0 {
			b.plan.Pod = append(b.plan.Pod, Link{Name: nic.Name, TxQueueLen: b.settings.TxQueueLen})
		}
	}
	if slices.ContainsFunc(b.plan.Pod, func(it Item) bool { return it == Item(Up{Dev: PodVeth}) }) {
		devs = append(devs, PodVeth)
	}
	for _, dev := range devs {
		b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv4/conf/" + dev + "/rp_filter", Value: filter})
	}
}

// hostRoutes plans the node's way to the addresses of nics, behind dev.
func (b *builder) hostRoutes(nics []NIC, dev string, mac MAC) {
	for _, nic := range nics {
		for _, p := range nic.Addrs {
			a := p.Addr()
			if b.inner(FamilyOf(a)) == nil {
				continue // the pod could not answer on the way back
			}
			b.plan.Host = append(b.plan.Host,
				Neighbor{Addr: a, MAC: mac, Dev: dev},
				Route{Dst: host(a), Dev: dev, Src: b.node.sourceFor(a), Table: b.settings.HostRuleTable, Proto: Protocol})
		}
	}
}

// defaultNIC is the interface with the default route. The one that was asked
// for may be attached later; until then it is the first.
func (b *builder) defaultNIC() NIC {
	for _, nic := range b.pod.NICs {
		if nic.Name == b.settings.DefaultNIC {
			return nic
		}
	}
	return b.pod.NICs[0]
}

// sourceFor is the node's address that it talks to a from: that of the same
// subnet, else the first of the family.
func (n Node) sourceFor(a netip.Addr) netip.Addr {
	var first netip.Addr
	for _, p := range n.Addrs {
		switch {
		case p.Contains(a):
			return p.Addr()
		case !first.IsValid() && FamilyOf(p.Addr()) == FamilyOf(a):
			first = p.Addr()
		}
	}
	return first
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

func (n NIC) gateway(f Family) netip.Addr {
	for _, g := range n.Gateways {
		if FamilyOf(g) == f {
			return g
		}
	}
	return netip.Addr{}
}

func (n NIC) addr(f Family) netip.Addr {
	for _, p := range n.Addrs {
		if FamilyOf(p.Addr()) == f {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func hasFamily(n NIC, f Family) bool { return n.addr(f).IsValid() }

func everything(f Family) netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
