package linux

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// defaultMetric6 is the kernel's metric for an IPv6 route without one
// (IP6_RT_PRIO_USER).
const defaultMetric6 = 1024

// ReadAll reads a whole namespace: links, addresses, unicast routes of all tables
// except local, permanent neighbors, rules selecting by source and mark only, and limits
// of the bandwidth. Use it for pods; a node can have too many links and routes. ReadNamed
// reads sysctls and nftables.
func (n *Namespace) ReadAll() (netplan.State, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", n.path, err)
	}
	r := reader{n: n, names: map[int]string{}, of: func(int) bool { return true }}
	for _, l := range links {
		r.names[l.Attrs().Index] = l.Attrs().Name
		r.link(l)
	}
	r.addrs()
	r.routes(func(netplan.Route, int) bool { return true })
	r.neighbors(0)
	r.rules()
	r.shaping(links)
	return r.state, r.err
}

// ReadNamed reads the sysctls and the nftables items named in want.
func (n *Namespace) ReadNamed(want netplan.State) (netplan.State, error) {
	r := reader{n: n}
	r.named(want)
	return r.state, r.err
}

// ReadRelated reads the state to compare with want: its links and their neighbors,
// the routes through these links or with the key of a wanted route, all rules, and
// the wanted sysctls and nftables items. It reads only the kinds of items in want.
func (n *Namespace) ReadRelated(want netplan.State) (netplan.State, error) {
	r := reader{n: n, names: map[int]string{}}
	r.of = func(index int) bool { return r.names[index] != "" }
	var rules bool
	routes, seen := map[string]bool{}, map[string]bool{}
	for _, it := range want {
		dev := devOf(it)
		switch it.(type) {
		case netplan.Rule:
			rules = true
		case netplan.Route:
			routes[it.Key()] = true
		}
		if dev == "" || seen[dev] {
			continue
		}
		seen[dev] = true
		l, err := n.nl.LinkByName(dev)
		if isLinkNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up link %s: %w", dev, err)
		}
		r.names[l.Attrs().Index] = dev
		r.link(l)
	}
	for index := range r.names {
		r.neighbors(index)
	}
	if len(routes) > 0 {
		r.routes(func(rt netplan.Route, index int) bool { return r.of(index) || routes[rt.Key()] })
	}
	if rules {
		r.rules()
	}
	r.named(want)
	return r.state, r.err
}

func devOf(it netplan.Item) string {
	switch it := it.(type) {
	case netplan.Link:
		return it.Name
	case netplan.Up:
		return it.Dev
	case netplan.Addr:
		return it.Dev
	case netplan.Route:
		return it.Dev
	case netplan.Neighbor:
		return it.Dev
	}
	return ""
}

// reader collects a state; it keeps the first error.
type reader struct {
	n     *Namespace
	names map[int]string // interface index → name of the links to read
	of    func(index int) bool
	state netplan.State
	err   error
}

func (r *reader) fail(doing string, err error) bool {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s in %s: %w", doing, r.n.path, err)
	}
	return err != nil
}

func (r *reader) link(l netlink.Link) {
	a := l.Attrs()
	link := netplan.Link{Name: a.Name, Kind: l.Type(), MTU: a.MTU, TxQueueLen: a.TxQLen, Group: int(a.Group)}
	if len(a.HardwareAddr) == len(netplan.MAC{}) {
		link.MAC = netplan.MAC(a.HardwareAddr)
	}
	r.state = append(r.state, link)
	if a.Flags&net.FlagUp != 0 {
		r.state = append(r.state, netplan.Up{Dev: a.Name})
	}
}

func (r *reader) addrs() {
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if r.fail("list addresses", err) {
		return
	}
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		if !ok || !r.of(a.LinkIndex) || p.Addr().IsLoopback() || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		learned := p.Addr().Is6() && a.Flags&unix.IFA_F_PERMANENT == 0
		r.state = append(r.state, netplan.Addr{Prefix: p, Dev: r.names[a.LinkIndex], Learned: learned})
	}
}

func (r *reader) routes(keep func(rt netplan.Route, index int) bool) {
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return r.n.nl.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
		})
		if r.fail("list routes", err) {
			return
		}
		for _, rt := range routes {
			if rt.Type != unix.RTN_UNICAST || rt.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			for _, hop := range hopsOf(rt) {
				route, ok := routeOf(hop, family)
				if !ok || !keep(route, hop.LinkIndex) {
					continue
				}
				if route.Dev, err = r.nameOf(hop.LinkIndex); r.fail("look up the link of a route", err) {
					return
				}
				r.state = append(r.state, route)
			}
		}
	}
}

// hopsOf splits a multipath route into routes with one next hop.
func hopsOf(rt netlink.Route) []netlink.Route {
	if len(rt.MultiPath) == 0 {
		return []netlink.Route{rt}
	}
	var out []netlink.Route
	for _, h := range rt.MultiPath {
		one := rt
		one.MultiPath, one.LinkIndex, one.Gw, one.Flags = nil, h.LinkIndex, h.Gw, h.Flags
		out = append(out, one)
	}
	return out
}

// nameOf returns the name of a link, or "" if it is gone.
func (r *reader) nameOf(index int) (string, error) {
	if name, ok := r.names[index]; ok {
		return name, nil
	}
	l, err := r.n.nl.LinkByIndex(index)
	if isLinkNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return l.Attrs().Name, nil
}

// routeOf converts a route with one next hop, except for the name of its link. It
// returns false for the kernel's own routes to link-local addresses.
func routeOf(rt netlink.Route, family int) (route netplan.Route, ok bool) {
	dst, ok := prefixOf(rt.Dst)
	if !ok {
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	if dst.Addr().Is6() && dst.Addr().IsLinkLocalUnicast() {
		return netplan.Route{}, false
	}
	route = netplan.Route{
		Dst: dst, Via: addrOf(rt.Gw), Src: addrOf(rt.Src),
		Metric: rt.Priority, OnLink: rt.Flags&unix.RTNH_F_ONLINK != 0, Proto: int(rt.Protocol),
	}
	if rt.Table != netplan.TableMain {
		route.Table = rt.Table
	}
	if family == netlink.FAMILY_V6 && route.Metric == defaultMetric6 {
		route.Metric = 0
	}
	return route, true
}

// neighbors reads the permanent neighbors of one link, or of all links for index 0.
func (r *reader) neighbors(index int) {
	neighs, err := dump(func() ([]netlink.Neigh, error) {
		return r.n.nl.NeighListExecute(netlink.Ndmsg{Index: uint32(index), State: netlink.NUD_PERMANENT})
	})
	if r.fail("list neighbors", err) {
		return
	}
	for _, nb := range neighs {
		a := addrOf(nb.IP)
		if len(nb.HardwareAddr) != len(netplan.MAC{}) || !a.IsValid() {
			continue
		}
		r.state = append(r.state, netplan.Neighbor{Addr: a, MAC: netplan.MAC(nb.HardwareAddr), Dev: r.names[nb.LinkIndex]})
	}
}

func (r *reader) rules() {
	rules, err := dump(func() ([]netlink.Rule, error) { return r.n.nl.RuleList(netlink.FAMILY_ALL) })
	if r.fail("list rules", err) {
		return
	}
	for _, rl := range rules {
		if rl.Family != netlink.FAMILY_V4 && rl.Family != netlink.FAMILY_V6 || selectsByMore(rl) {
			continue
		}
		rule := netplan.Rule{Family: inet.IPv4, Priority: rl.Priority, Mark: rl.Mark, Table: rl.Table, Proto: int(rl.Protocol)}
		if rl.Family == netlink.FAMILY_V6 {
			rule.Family = inet.IPv6
		}
		if p, ok := prefixOf(rl.Src); ok {
			rule.From = p
		}
		r.state = append(r.state, rule)
	}
}

// selectsByMore reports whether a rule has selectors or actions unknown to netplan.Rule.
func selectsByMore(rl netlink.Rule) bool {
	markBits := rl.Mask != nil && *rl.Mask != rl.Mark || rl.Mask == nil && rl.Mark != 0
	return rl.Dst != nil || markBits || rl.Tos != 0 || rl.IifName != "" || rl.OifName != "" ||
		rl.Invert || rl.Goto > 0 || rl.IPProto > 0 || rl.Sport != nil || rl.Dport != nil || rl.UIDRange != nil ||
		rl.SuppressPrefixlen >= 0 || rl.SuppressIfgroup >= 0 || rl.Table == 0
}

// named reads the sysctls and the nftables items named in want.
func (r *reader) named(want netplan.State) {
	var paths []string
	for _, it := range want {
		switch it := it.(type) {
		case netplan.Sysctl:
			paths = append(paths, it.Path)
		case netplan.Masquerade:
			if r.n.hasRules(nftFamily(it.Family), masqueradeChain(it)) {
				r.state = append(r.state, it)
			}
		case netplan.ReplyMark:
			if r.n.hasRules(nftFamily(it.Family), replyChains(it, true)...) {
				r.state = append(r.state, it)
			}
		}
	}
	st, err := r.n.readSysctls(paths)
	if !r.fail("read sysctls", err) {
		r.state = append(r.state, st...)
	}
}

func addrOf(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || a.Unmap().IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// prefixOf converts an address with a mask; ok is false for nil.
func prefixOf(n *net.IPNet) (p netip.Prefix, ok bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if a.Is4In6() && bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
