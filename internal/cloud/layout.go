package cloud

import (
	"net/netip"

	"go4.org/netipx"
)

// Layout says which addresses of a subnet the cloud keeps for itself.
type Layout string

const (
	// RouterFirst keeps the first four addresses and the last one. The router is the second one, e.g.
	// 10.0.1.1 (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html).
	RouterFirst Layout = ""
	// RouterLast keeps the first address and the last three of IPv4, the last nine of IPv6. The router is the
	// third last one, e.g. 10.0.1.253
	// (https://www.alibabacloud.com/help/en/vpc/api-610154).
	RouterLast Layout = "RouterLast"
)

// gateway returns the router of a CIDR.
func (l Layout) gateway(cidr netip.Prefix) netip.Addr {
	if l == RouterLast {
		return netipx.PrefixLastIP(cidr).Prev().Prev()
	}
	return cidr.Masked().Addr().Next()
}

// Kept returns the addresses of a CIDR that the cloud gives to no interface.
func (l Layout) Kept(cidr netip.Prefix) []netip.Addr {
	first, last := 4, 1
	switch {
	case l == RouterLast && cidr.Addr().Is4():
		first, last = 1, 3
	case l == RouterLast:
		first, last = 1, 9
	}
	var kept []netip.Addr
	for a := cidr.Masked().Addr(); first > 0 && cidr.Contains(a); a = a.Next() {
		kept = append(kept, a)
		first--
	}
	for a := netipx.PrefixLastIP(cidr); last > 0 && cidr.Contains(a); a = a.Prev() {
		kept = append(kept, a)
		last--
	}
	return kept
}
