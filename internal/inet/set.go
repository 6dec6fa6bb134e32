// Package inet holds sets of IP addresses, address families and routes.
//
// A Set is immutable: sorted, disjoint, non-adjacent ranges of IPv4 and IPv6
// addresses. Its cost depends on the number of ranges, never on the number of
// addresses, so 2^64 addresses are as cheap as 16. A look-up takes O(log n) for n
// ranges, a set operation O(n log n).
//
// The package also divides the address space into blocks of BlockSize aligned
// addresses. One SpiderIPBlock stores the leases of one block.
//
// Pure: no I/O, no clock.
package inet

import (
	"math"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"go4.org/netipx"
)

// Set is a set of addresses. The zero value is the empty set.
type Set struct {
	ranges []netipx.IPRange
	count  uint64 // addresses, saturating
	runs   []run  // the blocks that hold an address of the set
}

// Of returns the union of the ranges. It ignores invalid ones
// (netipx.IPRange.IsValid).
func Of(ranges ...netipx.IPRange) Set {
	return build(func(b *netipx.IPSetBuilder) {
		for _, r := range ranges {
			if r.IsValid() {
				b.AddRange(r)
			}
		}
	})
}

// OfAddrs returns the set of the addresses. It ignores the zero address.
func OfAddrs(addrs ...netip.Addr) Set {
	return build(func(b *netipx.IPSetBuilder) {
		for _, a := range addrs {
			if a.IsValid() {
				b.Add(a.WithZone(""))
			}
		}
	})
}

// OfPrefix returns all addresses of p, including the first and the last one.
func OfPrefix(p netip.Prefix) Set {
	if !p.IsValid() {
		return Set{}
	}
	return Of(netipx.RangeOfPrefix(p))
}

// Union returns the addresses in any of the sets.
func Union(sets ...Set) Set {
	return build(func(b *netipx.IPSetBuilder) {
		for _, s := range sets {
			for _, r := range s.ranges {
				b.AddRange(r)
			}
		}
	})
}

// build runs f on an empty builder and returns the result. f adds only valid
// ranges, so the builder reports no error.
func build(f func(*netipx.IPSetBuilder)) Set {
	var b netipx.IPSetBuilder
	f(&b)
	built, err := b.IPSet()
	if err != nil || built == nil {
		return Set{}
	}
	return index(built.Ranges())
}

// index returns the set of the ranges. They must be sorted, disjoint and not adjacent.
func index(ranges []netipx.IPRange) Set {
	if len(ranges) == 0 {
		return Set{}
	}
	s := Set{ranges: ranges, runs: runsOf(ranges)}
	for _, r := range ranges {
		s.count = addSaturating(s.count, size(r).saturate())
	}
	return s
}

// Minus returns the addresses of s outside o.
func (s Set) Minus(o Set) Set {
	if len(s.ranges) == 0 || len(o.ranges) == 0 {
		return s
	}
	return build(func(b *netipx.IPSetBuilder) {
		for _, r := range s.ranges {
			b.AddRange(r)
		}
		for _, r := range o.ranges {
			b.RemoveRange(r)
		}
	})
}

// And returns the addresses in both sets.
func (s Set) And(o Set) Set {
	var both []netipx.IPRange
	for i, j := s.meets(o); i < len(s.ranges) && j < len(o.ranges); {
		a, b := s.ranges[i], o.ranges[j]
		if r := overlap(a, b); r.IsValid() {
			both = append(both, r)
		}
		if a.To().Less(b.To()) {
			i++
		} else {
			j++
		}
	}
	return index(both)
}

// Overlaps reports whether the sets have an address in common.
func (s Set) Overlaps(o Set) bool {
	for i, j := s.meets(o); i < len(s.ranges) && j < len(o.ranges); {
		a, b := s.ranges[i], o.ranges[j]
		if a.Overlaps(b) {
			return true
		}
		if a.To().Less(b.To()) {
			i++
		} else {
			j++
		}
	}
	return false
}

// meets returns the first ranges of both sets that may overlap, so that a small set
// next to a large one costs a search.
func (s Set) meets(o Set) (i, j int) {
	if len(s.ranges) == 0 || len(o.ranges) == 0 {
		return len(s.ranges), len(o.ranges)
	}
	return max(s.upTo(o.ranges[0].From()), 0), max(o.upTo(s.ranges[0].From()), 0)
}

// Contains reports whether a is in the set.
func (s Set) Contains(a netip.Addr) bool {
	i := s.upTo(a)
	return i >= 0 && s.ranges[i].Contains(a)
}

// ContainsSet reports whether every address of o is in s.
func (s Set) ContainsSet(o Set) bool {
	for _, r := range o.ranges {
		i := s.upTo(r.From())
		if i < 0 || !s.ranges[i].Contains(r.From()) || !s.ranges[i].Contains(r.To()) {
			return false
		}
	}
	return true
}

// Equal reports whether the sets have the same addresses.
func (s Set) Equal(o Set) bool { return slices.Equal(s.ranges, o.ranges) }

// IsEmpty reports whether the set has no address.
func (s Set) IsEmpty() bool { return len(s.ranges) == 0 }

// Count returns the number of addresses, at most math.MaxInt64.
func (s Set) Count() int64 {
	return int64(min(s.count, math.MaxInt64)) // bounded by MaxInt64
}

// First returns the lowest address, and false where the set is empty.
func (s Set) First() (netip.Addr, bool) {
	if len(s.ranges) == 0 {
		return netip.Addr{}, false
	}
	return s.ranges[0].From(), true
}

// Ranges returns the ranges in order, disjoint and not adjacent. The caller owns
// the slice.
func (s Set) Ranges() []netipx.IPRange { return slices.Clone(s.ranges) }

// Strings returns the canonical text form, one entry per range, sorted and
// merged, e.g. "10.0.0.1-10.0.0.9" or "fd00::1". IPv6 addresses are written as in
// RFC 5952. Parse reads it.
func (s Set) Strings() []string {
	out := make([]string, 0, len(s.ranges))
	for _, r := range s.ranges {
		out = append(out, text(r))
	}
	return out
}

// String joins the entries of Strings with ", ".
func (s Set) String() string { return strings.Join(s.Strings(), ", ") }

// upTo returns the index of the last range beginning at or before a, or -1.
func (s Set) upTo(a netip.Addr) int {
	return sort.Search(len(s.ranges), func(i int) bool { return a.Less(s.ranges[i].From()) }) - 1
}

// overlap returns the intersection of a and b; it is invalid if they are disjoint.
func overlap(a, b netipx.IPRange) netipx.IPRange {
	from, to := a.From(), a.To()
	if from.Less(b.From()) {
		from = b.From()
	}
	if b.To().Less(to) {
		to = b.To()
	}
	return netipx.IPRangeFrom(from, to)
}

func text(r netipx.IPRange) string {
	if r.From() == r.To() {
		return r.From().String()
	}
	return r.From().String() + "-" + r.To().String()
}
