package service

import (
	"net/netip"
	"slices"
)

// set is a set of backends with its slots.
type set struct {
	key setKey
	id  ID
	// slots are the backends; the index is that of the slot.
	slots []netip.AddrPort
	// members are sorted by backend; none if the set is not tracked.
	members []MemberEntry
}

// change puts the planned content into the set, and adds the difference to the diff.
func (s *set) change(planned plannedSet, d *Diff) {
	slots := arrange(s.slots, planned.backends)
	for i, backend := range slots {
		if i >= len(s.slots) || s.slots[i] != backend {
			d.SetBackends = append(d.SetBackends, BackendEntry{Slot{s.id, uint32(i)}, backend})
		}
	}
	for i := len(slots); i < len(s.slots); i++ {
		d.DeleteBackends = append(d.DeleteBackends, Slot{s.id, uint32(i)})
	}
	s.slots = slots

	members := planned.members(s.id)
	old := s.members
	for _, m := range members {
		for len(old) > 0 && old[0].Backend.Compare(m.Backend) < 0 {
			d.DeleteMembers = append(d.DeleteMembers, old[0].Member)
			old = old[1:]
		}
		if len(old) > 0 && old[0].Backend == m.Backend {
			if old[0] != m {
				d.SetMembers = append(d.SetMembers, m)
			}
			old = old[1:]
			continue
		}
		d.SetMembers = append(d.SetMembers, m)
	}
	for _, m := range old {
		d.DeleteMembers = append(d.DeleteMembers, m.Member)
	}
	s.members = members
}

// members returns the members of the set, sorted by backend.
func (p plannedSet) members(id ID) []MemberEntry {
	if !p.tracked || len(p.backends)+len(p.draining) == 0 {
		return nil
	}
	members := make([]MemberEntry, 0, len(p.backends)+len(p.draining))
	for _, b := range p.backends {
		members = append(members, MemberEntry{Member: Member{id, b}})
	}
	for _, b := range p.draining {
		members = append(members, MemberEntry{Member{id, b}, true})
	}
	slices.SortFunc(members, func(a, b MemberEntry) int { return a.Backend.Compare(b.Backend) })
	return members
}

// arrange returns the wanted backends, sorted on input, in slots. A backend with a slot keeps it, but for the last
// ones if their number shrinks: they fill the holes. So a change of one backend writes one or two slots.
func arrange(slots, wanted []netip.AddrPort) []netip.AddrPort {
	isWanted := func(b netip.AddrPort) bool {
		_, ok := slices.BinarySearchFunc(wanted, b, netip.AddrPort.Compare)
		return ok
	}
	present := slices.Clone(slots)
	slices.SortFunc(present, netip.AddrPort.Compare)
	var added []netip.AddrPort
	for _, b := range wanted {
		if _, ok := slices.BinarySearchFunc(present, b, netip.AddrPort.Compare); !ok {
			added = append(added, b)
		}
	}
	next := make([]netip.AddrPort, len(slots), max(len(slots), len(wanted)))
	copy(next, slots)
	for i := 0; i < len(next); i++ {
		switch {
		case isWanted(next[i]):
		case len(added) > 0:
			next[i], added = added[0], added[1:]
		default:
			next[i] = next[len(next)-1]
			next = next[:len(next)-1]
			i-- // the moved one may be unwanted, too
		}
	}
	return slices.Clip(append(next, added...))
}
