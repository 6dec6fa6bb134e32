package netplan

import (
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// firstPodTable is the lowest routing table for an interface of a pod.
const firstPodTable = 100

// tablesOf assigns routing tables to interfaces. An additional interface gets one
// when it is attached with tunePodRoutes, and then the first NIC gets one too.
// Tables, once assigned, never change.
func tablesOf(p Pod, s Settings) map[string]int {
	tables, taken := map[string]int{}, map[int]bool{}
	for _, nic := range p.NICs {
		if nic.Table != 0 {
			tables[nic.Name], taken[nic.Table] = nic.Table, true
		}
	}
	tuned := s.TunePodRoutes && slices.ContainsFunc(p.NICs[1:], func(n NIC) bool { return n.Name == p.Attached })
	for i, nic := range p.NICs {
		first := i == 0 && (tuned || len(tables) > 0)
		if tables[nic.Name] != 0 || !first && !(tuned && nic.Name == p.Attached) {
			continue
		}
		t := firstPodTable
		for taken[t] {
			t++
		}
		tables[nic.Name], taken[t] = t, true
	}
	return tables
}

// removable implements Plan.Removable.
func (b *builder) removable(it Item) bool {
	nic, underlay := b.onUnderlay()
	table := b.tables[b.pod.Attached]
	switch it := it.(type) {
	case Addr:
		return underlay && it.Learned && it.Dev == nic.Name
	case Rule:
		return Owned(it) && it.Table == table
	case Route:
		if underlay && nic.learned(it) {
			return true
		}
		if it.IsDefault() && it.table() == TableMain {
			_, planned := b.defaultRoute(inet.FamilyOf(it.Dst.Addr()))
			return planned
		}
		return Owned(it) && it.table() == table
	}
	return false
}

// learned reports whether the route comes from a router advertisement on the
// interface: an IPv6 default route, or a route to a network without an address of
// the interface.
func (n NIC) learned(r Route) bool {
	network := !r.Via.IsValid() && r.Dst.Addr().Is6() && r.Proto == protoKernel &&
		!slices.ContainsFunc(n.Addrs, func(a netip.Prefix) bool { return a.Masked() == r.Dst })
	return r.Dev == n.Name && (r.Proto == protoRA || network)
}

// podRoutes plans the main table, and the tables and rules of interfaces with a
// table of their own, so that a reply leaves by the interface of its request.
func (b *builder) podRoutes() {
	nets := b.networksViaNode()
	for _, f := range b.pod.Families() {
		b.viaNodeRoutes(nets, f, b.mainSource(f), 0)
		if r, ok := b.defaultRoute(f); ok {
			b.plan.Pod = append(b.plan.Pod, r)
		}
	}
	b.policyRoutes(0)
	for _, nic := range b.pod.NICs {
		if table := b.tables[nic.Name]; table != 0 {
			b.nicTable(nic, table, nets)
		}
	}
}

// defaultRoute returns the only default route of a family in the main table of a
// pod with several interfaces. The plugin of each interface adds one; the kernel
// would use the last one for IPv4 and balance the load for IPv6. It returns false
// if no interface has a gateway, or if no attachment has tunePodRoutes.
func (b *builder) defaultRoute(f inet.Family) (r Route, ok bool) {
	nic, ok := b.defaultNIC(f)
	if !ok || len(b.tables) == 0 {
		return Route{}, false
	}
	gw := nic.gateway(f)
	return Route{Dst: f.Everything(), Via: gw, Dev: nic.Name, OnLink: onLink(nic, gw), Proto: Protocol}, true
}

// defaultNIC picks the NIC for the default route: (1) settings.DefaultNIC, (2) the
// NIC that already has it, (3) the first NIC with a gateway. A default route that
// the main plugin has only just added ranks after the earlier ones.
func (b *builder) defaultNIC(f inet.Family) (NIC, bool) {
	names := []string{b.settings.DefaultNIC}
	for _, name := range b.pod.Defaults[f] {
		if name != b.pod.Attached {
			names = append(names, name)
		}
	}
	if slices.Contains(b.pod.Defaults[f], b.pod.Attached) {
		names = append(names, b.pod.Attached)
	}
	for _, nic := range b.pod.NICs {
		names = append(names, nic.Name)
	}
	for _, name := range names {
		for _, nic := range b.pod.NICs {
			if nic.Name == name && nic.gateway(f).IsValid() {
				return nic, true
			}
		}
	}
	return NIC{}, false
}

// DefaultsWithout plans default routes of the main table for the time after the
// removal of interface gone: if only gone has a default route, the first remaining
// NIC with a gateway gets it.
func DefaultsWithout(p Pod, gone string) State {
	var st State
	for f, names := range p.Defaults {
		if slices.ContainsFunc(names, func(n string) bool { return n != gone }) {
			continue
		}
		for _, nic := range p.NICs {
			if gw := nic.gateway(f); nic.Name != gone && gw.IsValid() {
				st = append(st, Route{Dst: f.Everything(), Via: gw, Dev: nic.Name, OnLink: onLink(nic, gw), Proto: Protocol})
				break
			}
		}
	}
	return st
}

// mainSource returns the source address for packets to the node by the main table:
// the pod's address in Kubernetes, because it stays when other interfaces are
// detached.
func (b *builder) mainSource(f inet.Family) netip.Addr {
	return b.pod.NICs[slices.IndexFunc(b.pod.NICs, func(n NIC) bool { return hasFamily(n, f) })].addr(f)
}

// nicTable plans the table of one interface, and the rules selecting the table.
func (b *builder) nicTable(nic NIC, table int, nets []netip.Prefix) {
	st := &b.plan.Pod
	seen := map[inet.Family]bool{}
	for _, p := range nic.Addrs {
		f := inet.FamilyOf(p.Addr())
		*st = append(*st, Rule{Family: f, Priority: podRulePriority, From: host(p.Addr()), Table: table, Proto: Protocol})
		if net := p.Masked(); net != host(p.Addr()) && !nic.routes(net) {
			*st = append(*st, Route{Dst: net, Dev: nic.Name, Src: p.Addr(), Table: table, Proto: Protocol})
		}
		if seen[f] {
			continue
		}
		seen[f] = true
		if gw := nic.gateway(f); gw.IsValid() {
			*st = append(*st, Route{Dst: f.Everything(), Via: gw, Dev: nic.Name, Table: table, OnLink: onLink(nic, gw), Proto: Protocol})
		}
		b.viaNodeRoutes(nets, f, p.Addr(), table)
	}
	for _, r := range nic.Routes {
		if seen[inet.FamilyOf(r.Dst.Addr())] {
			*st = append(*st, Route{Dst: r.Dst, Via: r.Via, Dev: nic.Name, Table: table, OnLink: onLink(nic, r.Via), Proto: Protocol})
		}
	}
	b.policyRoutes(table)
}

// routes reports whether the interface reaches a network through a gateway. Plugins
// such as ptp route even the pod's own subnet, because each pod has a link of its
// own.
func (n NIC) routes(net netip.Prefix) bool {
	return slices.ContainsFunc(n.Routes, func(h inet.Route) bool { return h.Dst == net })
}

// onLink reports whether a route through the gateway needs the flag onlink: some
// plugins use a gateway outside all subnets of the interface.
func onLink(nic NIC, gw netip.Addr) bool {
	return gw.Is4() && !slices.ContainsFunc(nic.Addrs, func(p netip.Prefix) bool { return p.Contains(gw) })
}

// networksViaNode returns the networks behind the node, and the node's addresses
// outside these networks. It ignores an overlay network overlapping a subnet of
// the underlay: in such a cluster the underlay is the pod network of Kubernetes.
func (b *builder) networksViaNode() []netip.Prefix {
	nets := slices.Concat(b.settings.ServiceCIDR, b.settings.HijackCIDR)
	for _, o := range b.settings.OverlayPodCIDR {
		if !slices.ContainsFunc(b.underlay, func(n NIC) bool {
			return slices.ContainsFunc(n.Addrs, func(a netip.Prefix) bool { return a.Masked().Overlaps(o) })
		}) {
			nets = append(nets, o)
		}
	}
	for _, r := range b.pod.Managed {
		if b.isViaNode(r) {
			nets = append(nets, r.Dst)
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

// isViaNode reports whether a route leads through the node.
func (b *builder) isViaNode(r Route) bool {
	h := b.viaNode(inet.FamilyOf(r.Via))
	return h != nil && r.Dev == h.dev && r.Via == h.via
}

func (b *builder) viaNodeRoutes(nets []netip.Prefix, f inet.Family, src netip.Addr, table int) {
	h := b.viaNode(f)
	if h == nil {
		return
	}
	if table == 0 && h.src.IsValid() {
		src = h.src
	}
	for _, n := range nets {
		if inet.FamilyOf(n.Addr()) == f {
			b.plan.Pod = append(b.plan.Pod, h.route(n.Masked(), src, table))
		}
	}
}

// policyRoutes plans the policy routes of this configuration, and keeps those of
// other attachments. It leaves out a route through the pod's own address, because
// that pod is the router.
func (b *builder) policyRoutes(table int) {
	planned := map[netip.Prefix]bool{}
	for _, r := range b.settings.PolicyRoutes {
		if nic, fault := b.pod.nextHop(r.Via); fault == "" && !nic.holds(r.Via) {
			planned[r.Dst] = true
			b.plan.Pod = append(b.plan.Pod, Route{Dst: r.Dst, Via: r.Via, Dev: nic.Name, Table: table, Proto: Protocol})
		}
	}
	for _, r := range b.pod.Managed {
		if !planned[r.Dst] && !b.isViaNode(r) {
			b.plan.Pod = append(b.plan.Pod, Route{Dst: r.Dst, Via: r.Via, Dev: r.Dev, Table: table, Proto: Protocol})
		}
	}
}
