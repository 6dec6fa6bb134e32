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

// Segment are the peers of some ports, or of the protocols without ports.
type Segment struct {
	PortRange
	Peers inet.Set
}

// Sets returns the packets that the filter allows, besides those of Always.
func (f *Filter) Sets() Sets { return Sets{f.Ingress.allowed(), f.Egress.allowed()} }

// allowed divides all packets into segments in which the same rules match, and evaluates the rules in each.
func (s *Side) allowed() *Allowed {
	if s.open() {
		return nil
	}
	allowed := &Allowed{Any: everyone}
	for _, r := range s.ranges() {
		peers := s.peers(r)
		allowed.Any = allowed.Any.And(peers)
		allowed.Segments = join(allowed.Segments, Segment{r, peers})
	}
	if allowed.Any.Equal(everyone) {
		return nil
	}
	for i := range allowed.Segments {
		allowed.Segments[i].Peers = allowed.Segments[i].Peers.Minus(allowed.Any)
	}
	allowed.Segments = slices.DeleteFunc(allowed.Segments, func(s Segment) bool { return s.Peers.IsEmpty() })
	return allowed
}

// ranges returns all protocols and ports in order, divided where a rule begins or ends.
func (s *Side) ranges() (all []PortRange) {
	starts := map[service.Protocol][]int{service.TCP: {0}, service.UDP: {0}, service.SCTP: {0}, Others: {0}}
	for _, matches := range [][]Match{s.Admin, s.Allows, s.Baseline} {
		for i := range matches {
			for _, r := range matches[i].Ports {
				if r.Protocol != 0 {
					starts[r.Protocol] = append(starts[r.Protocol], int(r.From), int(r.To)+1)
				}
			}
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(starts)) {
		at := append(starts[protocol], maxPort+1)
		slices.Sort(at)
		at = slices.Compact(at)
		for i, from := range at[:len(at)-1] {
			all = append(all, PortRange{protocol, uint16(from), uint16(at[i+1] - 1)})
		}
	}
	return all
}

// join appends a segment, or extends the last one if it is adjacent and has the same peers.
func join(all []Segment, next Segment) []Segment {
	if n := len(all); n > 0 && all[n-1].Protocol == next.Protocol && all[n-1].Peers.Equal(next.Peers) {
		all[n-1].To = next.To
		return all
	}
	return append(all, next)
}

// peers returns the peers whose packets pass, for ports of one range of ranges.
func (s *Side) peers(r PortRange) inet.Set {
	var passing []inet.Set
	open := everyone
	// tier takes the decided peers away from open.
	tier := func(matches []Match) {
		undecided := open
		for i := range matches {
			m := &matches[i]
			if !m.covers(r.Protocol, r.From) || undecided.IsEmpty() {
				continue
			}
			hit := undecided.And(m.Peers)
			undecided = undecided.Minus(hit)
			if m.Action == Accept {
				passing = append(passing, hit)
			}
			if m.Action != Pass {
				open = open.Minus(hit)
			}
		}
	}
	tier(s.Admin)
	if len(s.Isolating) > 0 {
		return inet.Union(append(passing, s.allows(r).And(open))...)
	}
	tier(s.Baseline)
	return inet.Union(append(passing, open)...)
}

// allows returns the peers that NetworkPolicies allow.
func (s *Side) allows(r PortRange) inet.Set {
	var sets []inet.Set
	for i := range s.Allows {
		if s.Allows[i].covers(r.Protocol, r.From) {
			sets = append(sets, s.Allows[i].Peers)
		}
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
