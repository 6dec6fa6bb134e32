package service

import (
	"fmt"
	"net/netip"
)

// contents are maps as the kernel holds them.
type contents struct {
	frontends map[FrontendKey]Frontend
	backends  map[Slot]netip.AddrPort
	members   map[Member]bool // the value is Draining
}

func newContents() contents {
	return contents{map[FrontendKey]Frontend{}, map[Slot]netip.AddrPort{}, map[Member]bool{}}
}

// apply writes a diff in its order. check runs after each entry, as a program may read the maps at any moment.
func (c contents) apply(d Diff, check func()) {
	for _, e := range d.SetBackends {
		c.backends[e.Slot] = e.Backend
		check()
	}
	for _, e := range d.SetMembers {
		c.members[e.Member] = e.Draining
		check()
	}
	for _, e := range d.SetFrontends {
		c.frontends[e.FrontendKey] = e.Frontend
		check()
	}
	for _, k := range d.DeleteFrontends {
		delete(c.frontends, k)
		check()
	}
	for _, m := range d.DeleteMembers {
		delete(c.members, m)
		check()
	}
	for _, s := range d.DeleteBackends {
		delete(c.backends, s)
		check()
	}
}

// replace makes all the only content, as a new process does.
func (c contents) replace(all Diff) {
	clear(c.frontends)
	clear(c.backends)
	clear(c.members)
	c.apply(all, func() {})
}

// fault returns the first frontend that a program cannot use, "" if there is none.
func (c contents) fault() string {
	for k, f := range c.frontends {
		states := 0
		for _, state := range []bool{f.Count > 0, f.Flags&Refuse != 0, f.Flags&Pass != 0} {
			if state {
				states++
			}
		}
		if states != 1 || (f.ID != 0) != (f.Count > 0) || (f.Timeout != 0) != (f.Flags&Affinity != 0) {
			return fmt.Sprintf("%v: %+v contradicts itself", k, f)
		}
		for i := range f.Count {
			backend, ok := c.backends[Slot{f.ID, i}]
			if !ok || backend.Addr().Is4() != k.Addr.Is4() {
				return fmt.Sprintf("%v: slot %d of set %d is %v", k, i, f.ID, backend)
			}
		}
	}
	return ""
}

// garbage returns an entry that no frontend uses, "" if there is none.
func (c contents) garbage() string {
	counts, sets := map[ID]uint32{}, map[ID]bool{}
	for _, f := range c.frontends {
		counts[f.ID] = f.Count
	}
	for s := range c.backends {
		sets[s.ID] = true
		if count, ok := counts[s.ID]; ok && s.Index >= count {
			return fmt.Sprintf("slot %d of set %d with %d backends", s.Index, s.ID, count)
		}
	}
	return ""
}
