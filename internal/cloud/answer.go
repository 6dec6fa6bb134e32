package cloud

import (
	"net/netip"
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

// exists reports whether the last answer has the instance.
func (h History) exists() bool { return h.latest != nil && h.latest.Instance != nil }

// supply is what one answer says about an interface in one family.
type supply struct {
	iface   string
	subnet  netip.Prefix // invalid if the subnet has no CIDR of the family
	gateway netip.Addr
	ips     inet.Set
}

// supplyOf returns the supply of the interface with the device index. ok is false if
// the answer has no such interface, or its subnet is not among subnets.
func supplyOf(a *Answer, device int, family inet.Family, subnets map[string]Subnet) (s supply, ok bool) {
	if a == nil || a.Instance == nil {
		return supply{}, false
	}
	for _, i := range a.Instance.Interfaces {
		if i.Device != device {
			continue
		}
		subnet, known := subnets[i.Subnet]
		s = supply{iface: i.ID, gateway: subnet.Gateway(family)}
		for _, cidr := range subnet.CIDRs {
			if inet.FamilyOf(cidr.Addr()) == family {
				s.subnet = cidr.Masked()
				s.ips = usable(i, s.subnet, subnet.Layout)
			}
		}
		return s, known
	}
	return supply{}, false
}

// usable returns the addresses of an interface that pods may have: the assigned ones in
// the subnet, without the node's own and the cloud's.
func usable(i Interface, subnet netip.Prefix, layout Layout) inet.Set {
	var sets []inet.Set
	for _, piece := range i.Assigned {
		sets = append(sets, inet.OfPrefix(piece))
	}
	kept := append(layout.Kept(subnet), i.Primary...)
	return inet.Union(sets...).And(inet.OfPrefix(subnet)).Minus(inet.OfAddrs(kept...))
}
