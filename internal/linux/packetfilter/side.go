package packetfilter

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/policy"
)

// side is one isolated direction of an interface.
type side struct {
	// name is that of its first chain and of its counter, e.g. "eth0-egress".
	name      string
	drops     Drops
	direction policy.Direction
	// entries lead packets to the side; see layer.
	entries []entry
	// index is that of the interface; 0 outside layer frames.
	index int
	// silent is the index of the interface whose frames the layer frames judges, so that UDP can be dropped there; see
	// silence. It is 0 otherwise.
	silent int
	// lists are the peers: those of all packets, those of any protocol, then those of each segment.
	lists    []peers
	segments []policy.PortRange
}

// Indexes of side.lists.
const (
	always = iota
	anyProtocol
	firstSegment
)

// entry is an element of a map that leads packets to a side.
type entry struct {
	dispatch string // the name of the map
	key      string // bytes
}

// sidesOf returns the isolated directions of an interface.
func sidesOf(link string, i *Interface) (all []side) {
	for d, allowed := range []*policy.Allowed{i.Sets.Ingress, i.Sets.Egress} {
		if allowed == nil {
			continue
		}
		s := side{direction: policy.Direction(d), lists: []peers{split(i.Always), split(allowed.Any)}}
		s.name = i.Name + "-" + s.direction.String()
		if link != "" {
			s.name = link + "-" + s.name
		}
		s.drops = Drops{Link: link, Interface: i.Name, Direction: s.direction}
		for _, segment := range allowed.Segments {
			s.segments = append(s.segments, segment.PortRange)
			s.lists = append(s.lists, split(segment.Peers))
		}
		all = append(all, s)
	}
	return all
}

// sameShape reports whether the sides differ only in peers and in entries.
func (s *side) sameShape(other *side) bool { return slices.Equal(s.segments, other.segments) }

// peers are the addresses of a list, in parts. An address is a range of one.
type peers [parts][]netipx.IPRange

// Each part is a set of the kernel, unless it is empty: single addresses in a hash table, wider ranges in a tree.
const (
	single4 = iota
	wide4
	single6
	wide6
	parts
)

// partNames are parts of the names of sets.
var partNames = [parts]string{"4", "4-ranges", "6", "6-ranges"}

func isWide(part int) bool { return part == wide4 || part == wide6 }

func familyOf(part int) inet.Family {
	if part >= single6 {
		return inet.IPv6
	}
	return inet.IPv4
}

// spread is the number of addresses up to which a range becomes single addresses. Pods of a group often have adjacent
// addresses, and a change of a hash table is cheaper.
const spread = 16

func split(s inet.Set) (p peers) {
	for _, r := range s.Ranges() {
		part := single4
		if r.From().Is6() {
			part = single6
		}
		if singles, ok := addresses(r); ok {
			p[part] = append(p[part], singles...)
		} else {
			p[part+1] = append(p[part+1], r)
		}
	}
	return p
}

// addresses returns the addresses of a range, unless they are more than spread.
func addresses(r netipx.IPRange) (singles []netipx.IPRange, ok bool) {
	for a := r.From(); len(singles) < spread; a = a.Next() {
		singles = append(singles, netipx.IPRangeFrom(a, a))
		if a == r.To() {
			return singles, true
		}
	}
	return nil, false
}

// declare returns a set without its elements.
func declare(table *nftables.Table, name string, part int) *nftables.Set {
	s := &nftables.Set{Table: table, Name: name, Interval: isWide(part), KeyType: nftables.TypeIPAddr}
	if familyOf(part) == inet.IPv6 {
		s.KeyType = nftables.TypeIP6Addr
	}
	return s
}

// elements returns those of ranges. A range in a tree has two: its first address, and the one behind its last as the end.
func elements(ranges []netipx.IPRange, wide bool) (all []nftables.SetElement) {
	for _, r := range ranges {
		all = append(all, nftables.SetElement{Key: r.From().AsSlice()})
		if end := r.To().Next(); wide && end.IsValid() {
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return all
}

// difference returns the ranges of a that b lacks. Both are sorted.
func difference(a, b []netipx.IPRange) (only []netipx.IPRange) {
	for _, r := range a {
		at, found := slices.BinarySearchFunc(b, r.From(), func(r netipx.IPRange, first netip.Addr) int { return r.From().Compare(first) })
		if !found || b[at] != r {
			only = append(only, r)
		}
	}
	return only
}

// protocolICMPv6 and the types of multicast listener discovery (RFC 2710) and of neighbor discovery (RFC 4861).
// mldV2 is the report of RFC 3810.
const (
	neighborFirst, neighborLast = 130, 137
	mldV2                       = 143
	protocolICMPv6              = unix.IPPROTO_ICMPV6
)
