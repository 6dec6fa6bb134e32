package inet

import (
	"fmt"
	"net/netip"
	"slices"
)

// Route is a destination and its next hop, e.g. 10.0.0.0/8 via 192.0.2.1. In JSON
// it has the keys of a CNI result: {"dst":"10.0.0.0/8","gw":"192.0.2.1"}.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"gw"`
}

// String returns "10.0.0.0/8 via 192.0.2.1".
func (r Route) String() string { return fmt.Sprintf("%s via %s", r.Dst, r.Via) }

// RouteError is the reason for refusing a route.
type RouteError struct {
	Key    string // "dst" or "gw"
	Value  string // as written
	Reason string // the fault and the way out
}

// Error returns the key, the value and the reason.
func (e *RouteError) Error() string { return fmt.Sprintf("%s %q: %s", e.Key, e.Value, e.Reason) }

// ParseRoute reads a route in any configuration: a pool, an annotation, a coordinator.
// It clears the host bits of dst, because routes of the kernel have none, so
// 10.9.0.7/16 becomes 10.9.0.0/16. The error is a *RouteError.
func ParseRoute(dst, gw string) (Route, error) {
	network, err := netip.ParsePrefix(dst)
	if err != nil || network.Addr().Is4In6() {
		return Route{}, &RouteError{"dst", dst, `is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64"`}
	}
	via, reason := ParseAddr(gw)
	if reason == "" && FamilyOf(via) != FamilyOf(network.Addr()) {
		reason = fmt.Sprintf("is %s, but dst %s is %s; write a next hop of that version", FamilyOf(via), dst, FamilyOf(network.Addr()))
	}
	if reason == "" {
		reason = NextHopFault(via)
	}
	if reason != "" {
		return Route{}, &RouteError{"gw", gw, reason}
	}
	return Route{Dst: network.Masked(), Via: via}, nil
}

// ParseAddr reads an address, or returns the reason for refusing it.
func ParseAddr(text string) (a netip.Addr, reason string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, `is not an IP address, such as "10.0.0.1" or "fd00::1"`
	case a.Is4In6():
		return a, fmt.Sprintf("is an IPv4 address in IPv6 form; write %s", a.Unmap())
	case a.Zone() != "":
		return a, fmt.Sprintf("has a zone, which means nothing outside a host; write %s", a.WithZone(""))
	}
	return a, ""
}

// NextHopFault returns why no pod with an address in one of the subnets can use gw as
// the next hop of a route, "" if a pod can. Without subnets, it judges gw alone.
//
// An IPv6 link-local next hop is fine in every subnet (RFC 4861, section 8). The
// first and the last address of an IPv4 subnet up to /30 are no hosts (RFC 1122,
// 3.2.1.3, and RFC 3021); the first address of an IPv6 subnet is its routers'
// (RFC 4291, 2.6.1).
func NextHopFault(gw netip.Addr, subnets ...netip.Prefix) string {
	switch {
	case gw.IsUnspecified():
		return "is the unspecified address; write the address of a router"
	case gw.IsLoopback():
		return "is a loopback address, and a router has another one; write the address of a router"
	case gw.IsMulticast():
		return "is a multicast address; write the address of a router"
	case gw == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is the broadcast address; write the address of a router"
	case len(subnets) == 0, gw.Is6() && gw.IsLinkLocalUnicast():
		return ""
	}
	i := slices.IndexFunc(subnets, func(p netip.Prefix) bool { return p.Contains(gw) })
	if i < 0 {
		return fmt.Sprintf("is outside the subnet %s; write an address in it", list(subnets))
	}
	subnet := subnets[i]
	if subnet.IsSingleIP() {
		return fmt.Sprintf("is the only address of the subnet %s, so none is left for a pod; use a larger subnet", subnet)
	}
	if special := Special(subnet); gw.Is4() && slices.Contains(special, gw) {
		return fmt.Sprintf("is the network or the broadcast address of the subnet %s; write the address of a router", subnet)
	}
	return ""
}

// list joins the networks with " or ".
func list(networks []netip.Prefix) string {
	text := ""
	for i, n := range networks {
		if i > 0 {
			text += " or "
		}
		text += n.String()
	}
	return text
}

// Special returns the addresses of a subnet that are no host's: the network and the
// broadcast address of an IPv4 subnet up to /30 (RFC 1122, 3.2.1.3), or the
// subnet-router anycast address of an IPv6 subnet up to /126 (RFC 4291, 2.6.1).
func Special(subnet netip.Prefix) []netip.Addr {
	if !subnet.IsValid() || subnet.Bits() > subnet.Addr().BitLen()-2 {
		return nil
	}
	all := OfPrefix(subnet).ranges[0]
	if subnet.Addr().Is6() {
		return []netip.Addr{all.From()}
	}
	return []netip.Addr{all.From(), all.To()}
}

// unusable are networks without addresses for pods, by the reason (RFC 6890).
var unusable = []struct {
	network netip.Prefix
	reason  string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "source addresses of hosts that have none yet"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast addresses"},
	{netip.MustParsePrefix("::/127"), "the unspecified and the loopback address"},
	{netip.MustParsePrefix("ff00::/8"), "multicast addresses"},
}

// SubnetFault returns why pods cannot have addresses of the subnet, "" if they can.
func SubnetFault(subnet netip.Prefix) string {
	for _, u := range unusable {
		if u.network.Overlaps(subnet) {
			return fmt.Sprintf("overlaps %s (%s), and no pod can have those; use a network of your own", u.network, u.reason)
		}
	}
	return ""
}

// linkLocal are the networks that no router forwards (RFC 3927, section 7, and RFC
// 4291, 2.5.6).
var linkLocal = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")}

// IsLinkLocal reports whether the subnet has link-local addresses. Pods with such
// addresses reach only their own link.
func IsLinkLocal(subnet netip.Prefix) bool {
	return slices.ContainsFunc(linkLocal, subnet.Overlaps)
}

// MergeRoutes returns the routes for an interface with the addresses own. Pass the
// groups from the general to the specific, e.g. gateway, pool, pod: a later group
// replaces the routes of earlier ones to the same destination. Equal routes become
// one, because the kernel refuses the second with "file exists". A route through one
// of own is left out: the pod itself is that router. Two routes of one group to the
// same destination through different next hops stay.
func MergeRoutes(own []netip.Addr, groups ...[]Route) []Route {
	var merged []Route
	seen, replaced := map[Route]bool{}, map[netip.Prefix]bool{} // replaced: destinations of later groups
	for _, group := range slices.Backward(groups) {
		var kept []Route
		for _, r := range group {
			r.Dst = r.Dst.Masked()
			if !seen[r] && !replaced[r.Dst] && !slices.Contains(own, r.Via) {
				kept = append(kept, r)
			}
			seen[r] = true
		}
		for _, r := range kept {
			replaced[r.Dst] = true
		}
		merged = append(kept, merged...)
	}
	return merged
}
