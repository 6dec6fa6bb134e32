package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go4.org/netipx"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/service"
)

// Sets is a Filter for a kernel: addresses by ports, without the policies. Filters that allow the same packets have equal
// Sets.
type Sets struct {
	// Ingress and Egress are nil if every packet passes.
	Ingress, Egress *Allowed
}

// Allowed are the packets that pass in one direction.
type Allowed struct {
	// Any are the peers of all packets.
	Any inet.Set
	// Segments are sorted by protocol and port. They do not overlap, and none has an address of Any.
	Segments []Segment
}

// Segment are the peers of some ports.
type Segment struct {
	PortRange
	Peers inet.Set
}

// Sets returns the packets that the filter allows, besides those of Always.
func (f *Filter) Sets() Sets { return Sets{f.Ingress.allowed(), f.Egress.allowed()} }

func (s *Side) allowed() *Allowed {
	if len(s.Isolating) == 0 {
		return nil
	}
	var anyPeers []inet.Set
	byPorts := map[PortRange][]inet.Set{}
	for _, a := range s.Allows {
		if a.allowsAny() {
			anyPeers = append(anyPeers, a.Peers)
			continue
		}
		for _, ports := range a.Ports {
			byPorts[ports] = append(byPorts[ports], a.Peers)
		}
	}
	allowed := &Allowed{Any: inet.Union(anyPeers...)}
	byProtocol := map[service.Protocol][]Segment{}
	for ports, sets := range byPorts {
		if peers := inet.Union(sets...).Minus(allowed.Any); !peers.IsEmpty() {
			byProtocol[ports.Protocol] = append(byProtocol[ports.Protocol], Segment{ports, peers})
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(byProtocol)) {
		allowed.Segments = append(allowed.Segments, disjoint(byProtocol[protocol])...)
	}
	return allowed
}

// disjoint divides overlapping segments of one protocol, and joins adjacent ones with the same peers.
func disjoint(all []Segment) (out []Segment) {
	slices.SortFunc(all, func(a, b Segment) int { return a.compare(b.PortRange) })
	var starts []int // of the ranges of ports with constant peers
	for _, s := range all {
		starts = append(starts, int(s.From), int(s.To)+1)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	var active []Segment
	for i, from := range starts[:len(starts)-1] {
		active = slices.DeleteFunc(active, func(s Segment) bool { return int(s.To) < from })
		for len(all) > 0 && int(all[0].From) == from {
			active, all = append(active, all[0]), all[1:]
		}
		if len(active) > 0 {
			out = join(out, Segment{PortRange{active[0].Protocol, uint16(from), uint16(starts[i+1] - 1)}, unionOf(active)})
		}
	}
	return out
}

func join(all []Segment, next Segment) []Segment {
	if n := len(all); n > 0 && int(all[n-1].To)+1 == int(next.From) && all[n-1].Peers.Equal(next.Peers) {
		all[n-1].To = next.To
		return all
	}
	return append(all, next)
}

func unionOf(segments []Segment) inet.Set {
	if len(segments) == 1 {
		return segments[0].Peers
	}
	sets := make([]inet.Set, len(segments))
	for i, s := range segments {
		sets[i] = s.Peers
	}
	return inet.Union(sets...)
}

// line is a part of the text form: a direction without addresses, or the peers of some ports.
type line struct {
	direction Direction
	isolated  bool
	ports     PortRange
}

func (l line) String() string {
	switch {
	case !l.isolated:
		return l.direction.String() + " open"
	case l.ports == PortRange{}:
		return l.direction.String() + " isolated"
	}
	return fmt.Sprintf("%s %s", l.direction, l.ports)
}

func (l line) compare(other line) int {
	return cmp.Or(cmp.Compare(l.direction, other.direction), l.ports.compare(other.ports))
}

func (s Sets) lines() map[line]inet.Set {
	all := map[line]inet.Set{}
	for direction, allowed := range []*Allowed{s.Ingress, s.Egress} {
		d := Direction(direction)
		if allowed == nil {
			all[line{direction: d}] = inet.Set{}
			continue
		}
		all[line{direction: d, isolated: true}] = inet.Set{}
		if !allowed.Any.IsEmpty() {
			all[line{d, true, anyPorts}] = allowed.Any
		}
		for _, s := range allowed.Segments {
			all[line{d, true, s.PortRange}] = s.Peers
		}
	}
	return all
}

func (s Sets) sorted() ([]line, map[line]inet.Set) {
	all := s.lines()
	return slices.SortedFunc(maps.Keys(all), line.compare), all
}

// String returns one line for each direction, and one for the peers of some ports, e.g. "ingress TCP 80 10.6.0.2".
func (s Sets) String() string {
	var out strings.Builder
	sorted, all := s.sorted()
	for _, l := range sorted {
		fmt.Fprintln(&out, strings.TrimSpace(l.String()+" "+Addresses(all[l])))
	}
	return out.String()
}

// DiffFrom returns the changes since old, e.g. "+ ingress TCP 80 10.6.0.2": "+" passes now, "-" no longer.
func (s Sets) DiffFrom(old Sets) (changes []string) {
	after, now := s.sorted()
	before, then := old.sorted()
	both := slices.Concat(before, after)
	slices.SortStableFunc(both, line.compare)
	for _, l := range slices.Compact(both) {
		peers, isNow := now[l]
		former, wasThen := then[l]
		change := func(sign string, whole bool, peers inet.Set) {
			if whole || !peers.IsEmpty() {
				changes = append(changes, strings.TrimSpace(fmt.Sprintf("%s %s %s", sign, l, Addresses(peers))))
			}
		}
		change("-", !isNow, former.Minus(peers))
		change("+", !wasThen, peers.Minus(former))
	}
	return changes
}

// Addresses returns a set as text: networks in CIDR notation, single addresses, and ranges, e.g. "10.0.0.0/8, fd00::1".
func Addresses(s inet.Set) string {
	var texts []string
	for _, r := range s.Ranges() {
		texts = append(texts, rangeText(r))
	}
	return strings.Join(texts, ", ")
}

func rangeText(r netipx.IPRange) string {
	switch prefix, whole := r.Prefix(); {
	case r.From() == r.To():
		return r.From().String()
	case whole:
		return prefix.String()
	}
	return r.String()
}
