package inet

import (
	"fmt"
	"net/netip"
)

// Family is an IP address family. The zero value means none.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address, and 0 for the zero address. An
// IPv4-mapped IPv6 address (::ffff:192.0.2.1) is IPv6.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4():
		return IPv4
	case a.Is6():
		return IPv6
	}
	return 0
}

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// Everything returns the destination of a default route: 0.0.0.0/0 or ::/0.
func (f Family) Everything() netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}
