package view

import (
	"cmp"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Further states of an address in a map. A state of an address with a holder comes first, then the first
// of this list that applies.
const (
	StateGateway  = "Gateway"  // spec.gateway of the pool
	StateExcluded = "Excluded" // spec.excludeIPs has it
	StateReserved = "Reserved" // a SpiderReservedIP has it
)

// AddressMap is a part of a pool's addresses, in order.
type AddressMap struct {
	Spans []Span
	// Next is the first address of the next part; the zero value at the end.
	Next netip.Addr
}

// Span is one address, or many consecutive ones with one state and without a holder.
type Span struct {
	First, Last netip.Addr
	Count       int64
	State       string
	// Holder is that of a single address, nil for none.
	Holder *Address
}

// foldedFrom is the number of equal addresses without a holder that a map of a large pool shows as one span.
const foldedFrom = 256

// AddressMap returns the addresses of a pool from an address on, or all if it is the zero value: those in
// spec.ips, the gateway, and those that the pool has lost while a pod holds them. A map has at most limit
// spans. If the pool has more addresses, equal ones without a holder are folded. It returns false if there is no pool of that name.
func (s *State) AddressMap(name string, from netip.Addr, limit int) (AddressMap, bool) {
	p, ok := s.pools.Get(name)
	if !ok {
		return AddressMap{}, false
	}
	var all AddressMap
	pieces := s.pieces(p)
	fold := total(pieces) > int64(limit)
	for _, piece := range pieces {
		if from.IsValid() && piece.Last.Less(from) {
			continue
		}
		if from.IsValid() && piece.First.Less(from) {
			piece.First = from
			piece.Count = inet.Of(netipx.IPRangeFrom(piece.First, piece.Last)).Count()
		}
		if !all.add(piece, fold, limit) {
			break
		}
	}
	return all, true
}

// add adds a piece, and returns false if the map is full.
func (m *AddressMap) add(piece Span, fold bool, limit int) bool {
	if piece.Count == 1 || fold && piece.Count >= foldedFrom {
		if len(m.Spans) == limit {
			m.Next = piece.First
			return false
		}
		m.Spans = append(m.Spans, piece)
		return true
	}
	for addr := piece.First; addr.IsValid() && !piece.Last.Less(addr); addr = addr.Next() {
		if len(m.Spans) == limit {
			m.Next = addr
			return false
		}
		m.Spans = append(m.Spans, Span{First: addr, Last: addr, Count: 1, State: piece.State})
	}
	return true
}

// pieces returns the addresses of a pool as spans of any length, sorted.
func (s *State) pieces(p *pool.Pool) []Span {
	var spans []Span
	var held []netip.Addr
	for l := range s.leases(Filter{}) {
		if l.Pool != p.Name && !p.IPs.Contains(l.Addr) && l.Addr != p.Gateway {
			continue
		}
		held = append(held, l.Addr)
		a := s.address(l)
		spans = append(spans, Span{First: l.Addr, Last: l.Addr, Count: 1, State: a.State, Holder: &a})
	}
	spans = latest(spans)
	rest := p.IPs
	take := func(state string, set inet.Set) {
		for _, r := range rest.And(set).Ranges() {
			spans = append(spans, Span{First: r.From(), Last: r.To(), Count: inet.Of(r).Count(), State: state})
		}
		rest = rest.Minus(set)
	}
	if p.Gateway.IsValid() {
		rest = inet.Union(rest, inet.OfAddrs(p.Gateway))
	}
	rest = rest.Minus(inet.OfAddrs(held...))
	if p.Gateway.IsValid() {
		take(StateGateway, inet.OfAddrs(p.Gateway))
	}
	take(StateExcluded, p.Exclude)
	take(StateReserved, s.allReserved())
	take(StateFree, s.pools.Usable(p.Name))
	take(StateNotForPods, rest)
	slices.SortFunc(spans, func(a, b Span) int { return a.First.Compare(b.First) })
	return spans
}

// latest keeps one span for each address: that of the lease, not of a former sandbox.
func latest(spans []Span) []Span {
	slices.SortFunc(spans, func(a, b Span) int {
		return cmp.Or(a.First.Compare(b.First), cmp.Compare(ofFormer(a), ofFormer(b)))
	})
	return slices.CompactFunc(spans, func(a, b Span) bool { return a.First == b.First })
}

func ofFormer(s Span) int {
	if s.State == StateFormer {
		return 1
	}
	return 0
}

func (s *State) allReserved() inet.Set {
	sets := make([]inet.Set, 0, len(s.reserved))
	for _, set := range s.reserved {
		sets = append(sets, set)
	}
	return inet.Union(sets...)
}

func total(spans []Span) (n int64) {
	for _, s := range spans {
		n = saturated(n, s.Count)
	}
	return n
}

// Newest returns the leases in use that began last, the newest first.
func (s *State) Newest(limit int) []Address {
	var newest []lease.Lease
	for l := range s.leases(Filter{}) {
		if l.State == lease.InUse && !l.OfFormer() && !l.Since.IsZero() {
			newest = append(newest, l)
		}
	}
	slices.SortFunc(newest, func(a, b lease.Lease) int { return cmp.Or(b.Since.Compare(a.Since), a.Addr.Compare(b.Addr)) })
	all := []Address{}
	for _, l := range newest[:min(limit, len(newest))] {
		all = append(all, s.address(l))
	}
	return all
}
