package cloud

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Apart is the least time between two answers of a cloud before their agreement proves
// a change. Answers of the same moment may come from the same stale replica.
const Apart = 5 * time.Second

// Answer is what a provider said about one instance.
type Answer struct {
	At       time.Time
	Instance *Instance // nil if the cloud knows no such instance
}

// History holds the last answer about an instance, and one at least Apart before it.
// The zero value holds none.
type History struct {
	earlier, latest *Answer
}

// Add returns the history with one more answer.
func (h History) Add(a Answer) History {
	if h.latest != nil && a.At.Sub(h.latest.At) >= Apart {
		h.earlier = h.latest
	}
	h.latest = &a
	return h
}

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
	if h.latest == nil || h.latest.At.Before(t) {
		return t
	}
	return h.latest.At.Add(Apart)
}

// Pieces returns what the last answer shows on an interface.
func (h History) Pieces(iface string) []netip.Prefix { return h.latest.pieces(iface) }

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
	return h.changed(iface, func(is []netip.Prefix) []netip.Prefix {
		is = append(is, pieces...)
		slices.SortFunc(is, netip.Prefix.Compare)
		return slices.Compact(is)
	})
}

// Unassigned returns the history as if its answers had not shown the pieces on the interface.
func (h History) Unassigned(iface string, pieces []netip.Prefix) History {
	h = h.changed(iface, func(is []netip.Prefix) []netip.Prefix {
		return slices.DeleteFunc(is, func(p netip.Prefix) bool { return slices.Contains(pieces, p) })
	})
	return h.withoutIPv6(iface, pieces)
}

// withoutIPv6 returns the history without single IPv6 addresses among the primary ones of an interface: EC2 does not tell them apart.
func (h History) withoutIPv6(iface string, pieces []netip.Prefix) History {
	gone := func(a netip.Addr) bool { return a.Is6() && slices.Contains(pieces, netip.PrefixFrom(a, a.BitLen())) }
	for _, at := range []**Answer{&h.earlier, &h.latest} {
		if *at == nil || (*at).Instance == nil {
			continue
		}
		k := slices.IndexFunc((*at).Instance.Interfaces, func(i Interface) bool { return i.ID == iface && slices.ContainsFunc(i.Primary, gone) })
		if k < 0 {
			continue
		}
		instance := *(*at).Instance
		instance.Interfaces = slices.Clone(instance.Interfaces)
		i := &instance.Interfaces[k]
		i.Primary = slices.DeleteFunc(slices.Clone(i.Primary), gone)
		*at = &Answer{At: (*at).At, Instance: &instance}
	}
	return h
}

// Fixing returns the history with the single addresses of the set in Interface.Fixed, not in Assigned: they follow their leases, and
// belong to no pool of a node.
func (h History) Fixing(fixed inet.Set) History {
	if fixed.IsEmpty() {
		return h
	}
	isFixed := func(p netip.Prefix) bool { return p.IsSingleIP() && fixed.Contains(p.Addr()) }
	for _, at := range []**Answer{&h.earlier, &h.latest} {
		if *at == nil || (*at).Instance == nil || !slices.ContainsFunc((*at).Instance.Interfaces, func(i Interface) bool { return slices.ContainsFunc(i.Assigned, isFixed) }) {
			continue
		}
		instance := *(*at).Instance
		instance.Interfaces = slices.Clone(instance.Interfaces)
		for k := range instance.Interfaces {
			i := &instance.Interfaces[k]
			var rest []netip.Prefix
			i.Fixed = nil
			for _, p := range i.Assigned {
				if isFixed(p) {
					i.Fixed = append(i.Fixed, p)
				} else {
					rest = append(rest, p)
				}
			}
			i.Assigned = rest
		}
		*at = &Answer{At: (*at).At, Instance: &instance}
	}
	return h
}

// Attached returns the history as if its answers had shown the interface at the instance: the cloud has confirmed that it attached it.
func (h History) Attached(i Interface) History {
	for _, at := range []**Answer{&h.earlier, &h.latest} {
		if *at == nil || (*at).Instance == nil || (*at).has(i.ID) {
			continue
		}
		instance := *(*at).Instance
		instance.Interfaces = append(slices.Clone(instance.Interfaces), i)
		slices.SortStableFunc(instance.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Device, b.Device) })
		*at = &Answer{At: (*at).At, Instance: &instance}
	}
	return h
}

// changed returns the history with other pieces of an interface. Answers never change, so it copies those with the interface.
func (h History) changed(iface string, change func([]netip.Prefix) []netip.Prefix) History {
	for _, at := range []**Answer{&h.earlier, &h.latest} {
		if *at == nil || (*at).Instance == nil {
			continue
		}
		instance := *(*at).Instance
		k := slices.IndexFunc(instance.Interfaces, func(i Interface) bool { return i.ID == iface })
		if k < 0 {
			continue
		}
		instance.Interfaces = slices.Clone(instance.Interfaces)
		i := &instance.Interfaces[k]
		i.Assigned = change(slices.Clone(i.Assigned))
		*at = &Answer{At: (*at).At, Instance: &instance}
	}
	return h
}

// interfaceAt returns the interface with the device index.
func (a *Answer) interfaceAt(device int) (Interface, bool) {
	if a == nil || a.Instance == nil {
		return Interface{}, false
	}
	i := slices.IndexFunc(a.Instance.Interfaces, func(i Interface) bool { return i.Device == device })
	if i < 0 {
		return Interface{}, false
	}
	return a.Instance.Interfaces[i], true
}

// has reports whether the answer has the interface.
func (a *Answer) has(iface string) bool {
	return a != nil && a.Instance != nil && slices.ContainsFunc(a.Instance.Interfaces, func(i Interface) bool { return i.ID == iface })
}

// pieces returns what the answer shows on an interface.
func (a *Answer) pieces(iface string) []netip.Prefix {
	if a == nil || a.Instance == nil {
		return nil
	}
	for _, i := range a.Instance.Interfaces {
		if i.ID == iface {
			return i.Assigned
		}
	}
	return nil
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
