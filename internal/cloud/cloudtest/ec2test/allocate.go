package ec2test

import (
	"encoding/binary"
	"net/netip"

	"go4.org/netipx"
)

// prefixBits returns the length of delegated prefixes: IPv4 /28, IPv6 /80
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-prefix-eni.html).
func prefixBits(v4 bool) int {
	if v4 {
		return 28
	}
	return 80
}

// cidr returns the range of a subnet in a family; it is not valid in a subnet without the family.
func (n *Subnet) cidr(v4 bool) netip.Prefix {
	if v4 {
		return n.IPv4
	}
	return n.IPv6
}

// room returns the free addresses of a subnet in a family, those in reservations included.
func (s *state) room(n *Subnet, v4 bool) *netipx.IPSet {
	var free netipx.IPSetBuilder
	cidr := n.cidr(v4)
	if cidr.IsValid() {
		free.AddPrefix(cidr)
		a := cidr.Masked().Addr()
		for range 4 {
			free.Remove(a)
			a = a.Next()
		}
		free.Remove(netipx.PrefixLastIP(cidr))
	}
	for _, a := range n.Blocked {
		free.Remove(a)
	}
	for _, i := range s.interfaces {
		if i.Subnet == n.ID {
			for _, p := range i.ranges() {
				free.RemovePrefix(p)
			}
		}
	}
	return built(&free)
}

// built returns the set of a builder. Ranges of a state are valid, so that it cannot fail.
func built(b *netipx.IPSetBuilder) *netipx.IPSet {
	set, err := b.IPSet()
	if err != nil {
		panic(err)
	}
	return set
}

// count returns the number of addresses in a set of IPv4 addresses.
func count(set *netipx.IPSet) int {
	number := func(a netip.Addr) int { b := a.As4(); return int(binary.BigEndian.Uint32(b[:])) }
	n := 0
	for _, r := range set.Ranges() {
		n += number(r.To()) - number(r.From()) + 1
	}
	return n
}

// choose takes free ranges of a length. Single addresses come from outside the reservations. Prefixes come from the
// reservations for prefixes first, then from outside the others.
func choose(n *Subnet, room *netipx.IPSet, v4 bool, length, want int) ([]netip.Prefix, *Error) {
	var preferred, other netipx.IPSetBuilder
	other.AddSet(room)
	single := length == n.cidr(v4).Addr().BitLen()
	for _, r := range n.Reservations {
		other.RemovePrefix(r.CIDR)
		if r.Type == ReservedForPrefixes && !single && r.CIDR.Addr().Is4() == v4 {
			preferred.AddPrefix(r.CIDR)
		}
	}
	preferred.Intersect(room)
	sources := []*netipx.IPSet{built(&preferred), built(&other)}
	var chosen []netip.Prefix
	for len(chosen) < want {
		at := 0
		for ; at < len(sources); at++ {
			if p, rest, ok := sources[at].RemoveFreePrefix(uint8(length)); ok {
				sources[at], chosen = rest, append(chosen, p)
				break
			}
		}
		switch {
		case at < len(sources):
		case single:
			return nil, known("InsufficientFreeAddressesInSubnet")
		default:
			return nil, known("InsufficientCidrBlocks")
		}
	}
	return chosen, nil
}

// singles returns the addresses of ranges with one address each.
func singles(ranges []netip.Prefix) []netip.Addr {
	var list []netip.Addr
	for _, p := range ranges {
		list = append(list, p.Addr())
	}
	return list
}
