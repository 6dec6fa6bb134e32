package netplan

import (
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// firstPodTable is the first routing table that an interface of a pod can have.
const firstPodTable = 100

// tablesOf assigns routing tables to interfaces. A further interface gets one
// when it is attached and tuned, and with it the first interface does; whoever has
// one keeps it.
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

// learned reports whether the kernel has an IPv6 route by the interface from a
// router advertisement: a default route, or one to a network of which the interface
// has no address.
func (n NIC) learned(r Route) bool {
	network := !r.Via.IsValid() && r.Dst.Addr().Is6() && r.Proto == protoKernel &&
		!slices.ContainsFunc(n.Addrs, func(a netip.Prefix) bool { return a.Masked() == r.Dst })
	return r.Dev == n.Name && (r.Proto == protoRA || network)
}

// podRoutes plans the main table and, for interfaces that have them, their tables
// and rules, so that a reply leaves where its request came in.
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

// defaultRoute is the one default route of a family in the main table of a pod
// with several interfaces: the plugin of each made one, and the kernel would take
// the last of them for IPv4 and share the load out for IPv6. ok is false where no
// interface has a gateway, and where no attachment asked for routes to be tuned.
func (b *builder) defaultRoute(f inet.Family) (r Route, ok bool) {
	nic, ok := b.defaultNIC(f)
	if !ok || len(b.tables) == 0 {
		return Route{}, false
	}
	gw := nic.gateway(f)
	return Route{Dst: f.Everything(), Via: gw, Dev: nic.Name, OnLink: onLink(nic, gw), Proto: Protocol}, true
}

// defaultNIC is, of the interfaces with a gateway, that which is asked for, else
// that which has the default route, else the first. The route that the attached
// interface's plugin just made says least.
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

// DefaultsWithout plans the default routes of the main table that go along with an
// interface, for the first of those that stay.
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

// mainSource is the pod's address in what it sends to the node by the main table:
// that by which Kubernetes knows the pod, and which stays when others are detached.
func (b *builder) mainSource(f inet.Family) netip.Addr {
	return b.pod.NICs[slices.IndexFunc(b.pod.NICs, func(n NIC) bool { return hasFamily(n, f) })].addr(f)
}

// nicTable plans the table of one interface and the rules that lead to it.
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

// routes reports whether the interface reaches a network through a gateway: a subnet
// of its own, where a plugin such as ptp gives each pod a link to itself.
func (n NIC) routes(net netip.Prefix) bool {
	return slices.ContainsFunc(n.Routes, func(h inet.Route) bool { return h.Dst == net })
}

// onLink reports whether the gateway needs to be told to be on the link: no
// subnet of the interface holds it, as with plugins whose gateway is a label.
func onLink(nic NIC, gw netip.Addr) bool {
	return gw.Is4() && !slices.ContainsFunc(nic.Addrs, func(p netip.Prefix) bool { return p.Contains(gw) })
}

// networksViaNode are the networks behind the node, and the node's own addresses
// where these do not hold them. A network of overlay pods that overlaps a
// subnet of the underlay is no overlay: clusters have that where the underlay is
// the pod network that Kubernetes was told of.
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

// isViaNode reports whether a route leads to the node.
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

// policyRoutes plans the routes that the configuration asks for, and those that
// the configurations of other attachments asked for.
func (b *builder) policyRoutes(table int) {
	planned := map[netip.Prefix]bool{}
	for _, r := range b.settings.PolicyRoutes {
		if nic, ok := b.pod.nicOf(r.Via); ok {
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
