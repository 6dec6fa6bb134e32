package cloud

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Answer is what a provider said about one instance.
type Answer struct {
	At       time.Time
	Instance *Instance // nil if the cloud knows no such instance
}

func (a Answer) time() time.Time { return a.At }

// History holds the last answer about an instance, and the newest one at least Apart before it.
// The zero value holds none.
type History struct{ looks[Answer] }

// Add returns the history with one more answer.
func (h History) Add(a Answer) History { return History{h.add(a)} }

// Answered reports whether there is an answer at all.
func (h History) Answered() bool { return h.latest != nil }

// Type returns the type of the instance, empty if the last answer has none.
func (h History) Type() string {
	if !h.exists() {
		return ""
	}
	return h.latest.Instance.Type
}

// exists reports whether the last answer has the instance.
func (h History) exists() bool { return h.latest != nil && h.latest.Instance != nil }

// Since reports whether two answers, at least Apart apart, are not older than the time.
func (h History) Since(t time.Time) bool { return h.earlier != nil && !h.earlier.At.Before(t) }

// Next returns when to ask, so that there are two answers, at least Apart apart, since the time.
func (h History) Next(t time.Time) time.Time {
	if at, ok := h.since(t).next(); ok {
		return at
	}
	return t
}

// Has reports whether the last answer has an interface.
func (h History) Has(iface string) bool { return h.latest.has(iface) }

// Pieces returns what the last answer shows on an interface.
func (h History) Pieces(iface string) []netip.Prefix { return h.latest.pieces(iface) }

// Holder returns the interface that has an address according to the last answer, and the prefix with it, if it is part of one.
func (h History) Holder(a netip.Addr) (iface string, piece netip.Prefix, ok bool) {
	for _, i := range h.latest.interfaces() {
		if i.shows(a) {
			return i.ID, netip.PrefixFrom(a, a.BitLen()), true
		}
		if k := slices.IndexFunc(i.Assigned, func(p netip.Prefix) bool { return p.Contains(a) }); k >= 0 {
			return i.ID, i.Assigned[k], true
		}
	}
	return "", netip.Prefix{}, false
}

// Gained returns the pieces that both answers show on an interface, without those that it had.
func (h History) Gained(iface string, had []netip.Prefix) []netip.Prefix {
	before := h.earlier.pieces(iface)
	return slices.DeleteFunc(slices.Clone(h.latest.pieces(iface)), func(p netip.Prefix) bool {
		return slices.Contains(had, p) || !slices.Contains(before, p)
	})
}

// Assigned returns the history as if its answers had shown the pieces on the interface: the cloud
// has confirmed that it assigned them.
func (h History) Assigned(iface string, pieces []netip.Prefix) History {
	return h.changed(iface, func(i *Interface) {
		is := slices.Concat(i.Assigned, pieces)
		slices.SortFunc(is, netip.Prefix.Compare)
		i.Assigned = slices.Compact(is)
	})
}

// Unassigned returns the history as if its answers had not shown the pieces on the interface. EC2 does not tell single IPv6 addresses
// from the primary ones, so they may be among those.
func (h History) Unassigned(iface string, pieces []netip.Prefix) History {
	gone := func(p netip.Prefix) bool { return slices.Contains(pieces, p) }
	return h.changed(iface, func(i *Interface) {
		i.Assigned = slices.DeleteFunc(slices.Clone(i.Assigned), gone)
		i.Primary = slices.DeleteFunc(slices.Clone(i.Primary), func(a netip.Addr) bool { return a.Is6() && gone(netip.PrefixFrom(a, a.BitLen())) })
	})
}

// Fixing returns the history with the single addresses of the set in Interface.Fixed, not in Assigned: they follow their leases, and
// belong to no pool of a node.
func (h History) Fixing(fixed inet.Set) History {
	if fixed.IsEmpty() {
		return h
	}
	isFixed := func(p netip.Prefix) bool { return p.IsSingleIP() && fixed.Contains(p.Addr()) }
	hasFixed := func(i Interface) bool { return slices.ContainsFunc(i.Assigned, isFixed) }
	return h.edited(func(a *Answer) bool { return slices.ContainsFunc(a.Instance.Interfaces, hasFixed) }, func(all []Interface) []Interface {
		for k := range all {
			i := &all[k]
			assigned := i.Assigned
			i.Assigned, i.Fixed = nil, nil
			for _, p := range assigned {
				if isFixed(p) {
					i.Fixed = append(i.Fixed, p)
				} else {
					i.Assigned = append(i.Assigned, p)
				}
			}
		}
		return all
	})
}

// Attached returns the history as if its answers had shown the interface at the instance: the cloud has confirmed that it attached it.
func (h History) Attached(i Interface) History {
	return h.edited(func(a *Answer) bool { return !a.has(i.ID) }, func(all []Interface) []Interface {
		all = append(all, i)
		slices.SortStableFunc(all, func(a, b Interface) int { return cmp.Compare(a.Device, b.Device) })
		return all
	})
}

// changed returns the history with an interface changed. change must not write into the slices of the interface.
func (h History) changed(iface string, change func(*Interface)) History {
	return h.edited(func(a *Answer) bool { return a.has(iface) }, func(all []Interface) []Interface {
		change(&all[slices.IndexFunc(all, func(i Interface) bool { return i.ID == iface })])
		return all
	})
}

// edited returns the history with other interfaces in the answers that touches selects.
func (h History) edited(touches func(*Answer) bool, edit func([]Interface) []Interface) History {
	return History{h.looks.edited(func(a *Answer) *Answer {
		if a.Instance == nil || !touches(a) {
			return a
		}
		instance := *a.Instance
		instance.Interfaces = edit(slices.Clone(instance.Interfaces))
		return &Answer{At: a.At, Instance: &instance}
	})}
}

// interfaces returns what the answer shows, nothing for no answer.
func (a *Answer) interfaces() []Interface {
	if a == nil || a.Instance == nil {
		return nil
	}
	return a.Instance.Interfaces
}

// interfaceAt returns the interface with the device index.
func (a *Answer) interfaceAt(device int) (Interface, bool) {
	return find(a.interfaces(), func(i Interface) bool { return i.Device == device })
}

// named returns the interface with the ID.
func (a *Answer) named(id string) (Interface, bool) {
	return find(a.interfaces(), func(i Interface) bool { return i.ID == id })
}

// has reports whether the answer has the interface.
func (a *Answer) has(iface string) bool {
	_, ok := a.named(iface)
	return ok
}

// pieces returns what the answer shows on an interface.
func (a *Answer) pieces(iface string) []netip.Prefix {
	i, _ := a.named(iface)
	return i.Assigned
}

// supply is what one answer says about an interface in one family.
type supply struct {
	iface   string
	subnet  netip.Prefix // invalid if the subnet has no CIDR of the family
	gateway netip.Addr
	ips     inet.Set
}

// supplyOf returns the supply of the interface with the device index. ok is false if
// the answer has no such interface, or its subnet is not among subnets. offered returns the
// addresses of an assigned piece that pods may have.
func supplyOf(a *Answer, device int, family inet.Family, subnets map[string]Subnet, offered func(netip.Prefix) inet.Set) (s supply, ok bool) {
	i, ok := a.interfaceAt(device)
	if !ok {
		return supply{}, false
	}
	subnet, known := subnets[i.Subnet]
	s = supply{iface: i.ID, gateway: subnet.Gateway(family)}
	for _, cidr := range subnet.CIDRs {
		if inet.FamilyOf(cidr.Addr()) == family {
			s.subnet = cidr.Masked()
			s.ips = usable(i, s.subnet, subnet.Layout, offered)
		}
	}
	return s, known
}

// usable returns the addresses of an interface that pods may have: the offered ones of the assigned pieces in
// the subnet, without the node's own and the cloud's.
func usable(i Interface, subnet netip.Prefix, layout Layout, offered func(netip.Prefix) inet.Set) inet.Set {
	var sets []inet.Set
	for _, piece := range i.Assigned {
		sets = append(sets, offered(piece))
	}
	kept := append(layout.Kept(subnet), i.Primary...)
	return inet.Union(sets...).And(inet.OfPrefix(subnet)).Minus(inet.OfAddrs(kept...))
}
