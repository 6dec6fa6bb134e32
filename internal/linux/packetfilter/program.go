package packetfilter

import (
	"fmt"
	"math"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"go4.org/netipx"

	"spiderpool.dev/spiderpool/internal/policy"
)

// create adds a side.
func (b *batch) create(s *side) {
	b.conn.AddObj(&nftables.CounterObj{Table: b.present, Name: s.name})
	b.addRules(b.conn.AddChain(s.end(b.present)), s.dropRules(b.logs))
	p := b.newProgram(s)
	b.layer.addChain(b, s)
	b.switchRules(p.entrance(b.present), b.entranceRules(p))
	b.link(s.entries, nil, s.name)
	b.programs[s.name] = p
}

// entrance is the first chain of a side.
func (p *program) entrance(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: p.name}
}

// end is the last chain of a side.
func (s *side) end(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: dropChain(s.name)}
}

// newProgram adds all of a side except its first and last chains.
func (b *batch) newProgram(s *side) *program {
	p := &program{side: *s, sets: make([][parts]*nftables.Set, len(s.lists))}
	for i, list := range s.lists {
		for part, ranges := range list {
			p.sets[i][part] = b.newSet(p, i, part, ranges)
		}
	}
	for i := range s.segments {
		c := b.conn.AddChain(&nftables.Chain{Table: b.present, Name: b.unique(fmt.Sprintf("%s-%d", s.name, i))})
		p.chains = append(p.chains, c)
		b.addRules(c, b.segmentRules(p, i))
	}
	return p
}

// listName is a part of the names of sets.
func listName(list int) string {
	switch list {
	case always:
		return "always"
	case anyProtocol:
		return "any"
	}
	return fmt.Sprint(list - firstSegment)
}

// newSet adds a part of a list, unless it is empty.
func (b *batch) newSet(p *program, list, part int, ranges []netipx.IPRange) *nftables.Set {
	if len(ranges) == 0 {
		return nil
	}
	s := b.addSet(declare(b.present, b.unique(fmt.Sprintf("%s-%s-%s", p.name, listName(list), partNames[part])), part))
	b.addElements(s, elements(ranges, isWide(part)))
	return s
}

// peerRules let the peers of a list pass.
func (b *batch) peerRules(p *program, list int) (rules [][]expr.Any) {
	for part, s := range p.sets[list] {
		if s != nil {
			rules = append(rules, append(b.layer.peer(p.direction, familyOf(part)), lookup(s), pass))
		}
	}
	return rules
}

func (b *batch) segmentRules(p *program, segment int) [][]expr.Any {
	return append(b.peerRules(p, firstSegment+segment), []expr.Any{goTo(dropChain(p.name))})
}

// entranceRules are those of the first chain. They add the maps of ports unless the program has them.
func (b *batch) entranceRules(p *program) [][]expr.Any {
	rules := slices.Concat(b.layer.first(), b.peerRules(p, always), b.peerRules(p, anyProtocol))
	if p.maps == nil {
		b.addMaps(p)
	}
	for i, m := range p.maps {
		if m != nil {
			rules = append(rules, b.layer.ports(portProtocols[i], m)...)
		}
	}
	for i, segment := range p.segments {
		if segment.Protocol == policy.Others {
			rules = append(rules, b.layer.others(p.chains[i].Name)...)
		}
	}
	return append(rules, []expr.Any{goTo(dropChain(p.name))})
}

// addMaps adds the maps from ports to the chains of segments.
func (b *batch) addMaps(p *program) {
	p.maps = make([]*nftables.Set, len(portProtocols))
	for i, protocol := range portProtocols {
		var elements []nftables.SetElement
		for j, segment := range p.segments {
			if segment.Protocol == protocol {
				elements = append(elements, jumps(segment, p.chains[j].Name)...)
			}
		}
		if len(elements) == 0 {
			continue
		}
		p.maps[i] = b.addSet(&nftables.Set{
			Table: b.present, Name: b.unique(fmt.Sprintf("%s-ports-%d", p.name, protocol)),
			IsMap: true, Interval: true, KeyType: nftables.TypeInetService, DataType: nftables.TypeVerdict,
		})
		b.addElements(p.maps[i], elements)
	}
}

// jumps returns the elements that lead from the ports of a range to a chain.
func jumps(r policy.PortRange, chain string) []nftables.SetElement {
	all := []nftables.SetElement{{Key: bigEndian.AppendUint16(nil, r.From), VerdictData: goTo(chain)}}
	if r.To < math.MaxUint16 {
		all = append(all, nftables.SetElement{Key: bigEndian.AppendUint16(nil, r.To+1), IntervalEnd: true})
	}
	return all
}

// replace gives a side other segments: new sets and chains, and then other rules in its first chain.
func (b *batch) replace(p *program, s *side) {
	former := *p
	next := b.newProgram(s)
	b.changeEnd(p, s)
	b.switchRules(next.entrance(b.present), b.entranceRules(next))
	b.link(s.entries, former.entries, s.name)
	b.programs[s.name] = next
	b.later = append(b.later, func() { b.deleteParts(&former) })
}

// changeEnd gives a side other rules for dropped packets.
func (b *batch) changeEnd(p *program, s *side) {
	if p.silent != s.silent {
		b.switchRules(s.end(b.present), s.dropRules(b.logs))
	}
}

// deleteParts deletes everything except the first and last chains. The rules of the first one do not use it any more.
func (b *batch) deleteParts(p *program) {
	for _, m := range p.maps {
		if m != nil {
			b.conn.DelSet(m)
		}
	}
	for _, c := range p.chains {
		b.conn.DelChain(c)
	}
	for _, list := range p.sets {
		for _, s := range list {
			if s != nil {
				b.conn.DelSet(s)
			}
		}
	}
}

// remove opens a side.
func (b *batch) remove(p *program) {
	b.layer.detach(b, p)
	delete(b.programs, p.name)
	b.later = append(b.later, func() {
		b.conn.FlushChain(p.entrance(b.present))
		b.deleteParts(p)
		b.conn.DelChain(p.entrance(b.present))
		b.conn.DelChain(p.end(b.present))
		b.conn.DeleteObject(&nftables.CounterObj{Table: b.present, Name: p.name})
	})
}

// change gives a side other peers.
func (b *batch) change(p *program, s *side) {
	for list := range s.lists {
		dirty := false
		for part := range parts {
			dirty = b.changePart(p, list, part, p.lists[list][part], s.lists[list][part]) || dirty
		}
		switch {
		case dirty && list < firstSegment:
			b.switchRules(p.entrance(b.present), b.entranceRules(p))
		case dirty:
			b.switchRules(p.chains[list-firstSegment], b.segmentRules(p, list-firstSegment))
		}
	}
	b.changeEnd(p, s)
	b.link(s.entries, p.entries, p.name)
	p.side = *s
}

// changePart gives a set other elements. It reports whether there is another set now, for other rules. A tree is never
// changed: until Linux 6.17, a look-up may miss an element while its neighbors change.
func (b *batch) changePart(p *program, list, part int, former, next []netipx.IPRange) (dirty bool) {
	if slices.Equal(former, next) {
		return false
	}
	old := p.sets[list][part]
	if isWide(part) || len(former) == 0 || len(next) == 0 {
		p.sets[list][part] = b.newSet(p, list, part, next)
		if old != nil {
			b.later = append(b.later, func() { b.conn.DelSet(old) })
		}
		return true
	}
	known := *old
	known.ID = 0 // the set is not of this transaction
	b.addElements(&known, elements(difference(next, former), false))
	if gone := difference(former, next); len(gone) > 0 {
		b.later = append(b.later, func() { b.deleteElements(&known, elements(gone, false)) })
	}
	return false
}

// link adds the entries that the former ones lack, and deletes the others.
func (b *batch) link(entries, former []entry, to string) {
	for _, e := range entries {
		if !slices.Contains(former, e) {
			b.switches = append(b.switches, func() { b.addElements(b.layer.dispatch(b, e), e.element(to)) })
		}
	}
	for _, e := range former {
		if !slices.Contains(entries, e) {
			b.later = append(b.later, func() { b.deleteElements(b.layer.dispatch(b, e), e.element(to)) })
		}
	}
}

// element leads to a chain.
func (e entry) element(chain string) []nftables.SetElement {
	return []nftables.SetElement{{Key: []byte(e.key), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}
