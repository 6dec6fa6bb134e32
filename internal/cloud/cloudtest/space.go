package cloudtest

import (
	"math/bits"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

const (
	wholeBlock = inet.Mask(0xffff)
	prefixIPv6 = 80
	// maxPicked bounds the search for single IPv6 addresses.
	maxPicked = 1 << 16
)

// space is the addresses of a subnet.
type space struct {
	cidrs    []netip.Prefix
	reserved []cloud.Reservation
	free     int // IPv4 addresses

	blocks map[netip.Addr]inet.Mask // taken addresses, by the first of each 16
	wide   map[netip.Prefix]bool    // taken IPv6 prefixes
	inWide map[netip.Prefix]int     // taken single addresses in each IPv6 prefix
}

// newSpace returns the addresses of a subnet, without those that the cloud keeps.
func newSpace(cidrs []netip.Prefix, layout cloud.Layout) *space {
	s := &space{cidrs: cidrs, blocks: map[netip.Addr]inet.Mask{}, wide: map[netip.Prefix]bool{}, inWide: map[netip.Prefix]int{}}
	for _, cidr := range cidrs {
		if cidr.Addr().Is4() {
			s.free += 1 << (32 - cidr.Bits())
		}
		for _, a := range layout.Kept(cidr) {
			s.take(single(a))
		}
	}
	return s
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// wideOf returns the IPv6 prefix around an address.
func wideOf(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, prefixIPv6).Masked() }

// bitsOf returns the block of a piece of at most 16 addresses, and its bits therein.
func bitsOf(p netip.Prefix) (netip.Addr, inet.Mask) {
	base := inet.BlockOf(p.Addr())
	if !p.IsSingleIP() {
		return base, wholeBlock
	}
	return base, 1 << inet.BlockIndex(p.Addr())
}

func isWide(p netip.Prefix) bool { return p.Addr().Is6() && p.Bits() == prefixIPv6 }

// isFree reports whether nothing of a piece is taken.
func (s *space) isFree(p netip.Prefix) bool {
	if isWide(p) {
		return !s.wide[p] && s.inWide[p] == 0
	}
	base, mask := bitsOf(p)
	return s.blocks[base]&mask == 0 && !(p.Addr().Is6() && s.wide[wideOf(p.Addr())])
}

// take marks a piece as taken.
func (s *space) take(p netip.Prefix) { s.set(p, true) }

// give marks a piece as free.
func (s *space) give(p netip.Prefix) { s.set(p, false) }

func (s *space) set(p netip.Prefix, taken bool) {
	if isWide(p) {
		s.wide[p] = taken
		return
	}
	base, mask := bitsOf(p)
	before := s.blocks[base]
	if taken {
		s.blocks[base] |= mask
	} else {
		s.blocks[base] &^= mask
	}
	more := bits.OnesCount16(uint16(s.blocks[base])) - bits.OnesCount16(uint16(before))
	if p.Addr().Is4() {
		s.free -= more
	} else {
		s.inWide[wideOf(p.Addr())] += more
	}
}

// has reports whether the subnet contains a piece.
func (s *space) has(p netip.Prefix) bool {
	return slices.ContainsFunc(s.cidrs, func(cidr netip.Prefix) bool { return cidr.Bits() <= p.Bits() && cidr.Contains(p.Addr()) })
}

// pick returns n free pieces. It takes none of them.
func (s *space) pick(f inet.Family, unit cloud.Unit, n int) ([]netip.Prefix, cloud.Kind) {
	var picked []netip.Prefix
	for _, from := range s.sources(f, unit) {
		for p := range pieces(from, unit) {
			if len(picked) == n {
				return picked, ""
			}
			if s.isFree(p) && !s.isReserved(p, from) && !slices.Contains(picked, p) {
				picked = append(picked, p)
			}
		}
	}
	if len(picked) == n {
		return picked, ""
	}
	if unit == cloud.Prefixes && s.free >= inet.BlockSize {
		return nil, cloud.Fragmented
	}
	return nil, cloud.NoCapacity
}

// sources returns the ranges to search: for prefixes, the reservations first.
func (s *space) sources(f inet.Family, unit cloud.Unit) (ranges []netip.Prefix) {
	for _, r := range s.reserved {
		if unit == cloud.Prefixes && r.Prefixes && inet.FamilyOf(r.CIDR.Addr()) == f {
			ranges = append(ranges, r.CIDR)
		}
	}
	for _, cidr := range s.cidrs {
		if inet.FamilyOf(cidr.Addr()) == f {
			ranges = append(ranges, cidr.Masked())
		}
	}
	return ranges
}

// isReserved reports whether a piece lies in a reservation other than the searched range.
func (s *space) isReserved(p, searched netip.Prefix) bool {
	return slices.ContainsFunc(s.reserved, func(r cloud.Reservation) bool { return r.CIDR != searched && r.CIDR.Overlaps(p) })
}

// pieces yields the pieces of a range, in order.
func pieces(from netip.Prefix, unit cloud.Unit) func(yield func(netip.Prefix) bool) {
	size := pieceBits(inet.FamilyOf(from.Addr()), unit)
	return func(yield func(netip.Prefix) bool) {
		p := netip.PrefixFrom(from.Addr(), size)
		for range maxPicked {
			if !from.Contains(p.Addr()) || !yield(p) {
				return
			}
			next := lastOf(p).Next()
			if !next.IsValid() {
				return
			}
			p = netip.PrefixFrom(next, size)
		}
	}
}

// pieceBits returns the prefix length of a piece.
func pieceBits(f inet.Family, unit cloud.Unit) int {
	switch {
	case unit == cloud.Addresses:
		return f.Everything().Addr().BitLen()
	case f == inet.IPv4:
		return 28
	default:
		return prefixIPv6
	}
}
