package netplan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// PodOf finds the interfaces of a pod in the state of its namespace, with routes in
// the kernel's order. An interface is a link with an address, except loopback and
// PodVeth. The interface named first comes first, the others are sorted by name,
// net2 before net10. A gateway is the next hop of a default route through the
// interface, in any table. PodOf ignores items learned from router advertisements.
func PodOf(st State, first string) Pod {
	nics := map[string]*NIC{}
	pod := Pod{Defaults: map[inet.Family][]string{}}
	for _, it := range st {
		if l, ok := it.(Link); ok && l.Name == PodVeth {
			pod.Veth = true
		} else if ok && l.Name != "lo" {
			nics[l.Name] = &NIC{Name: l.Name, MAC: l.MAC, MTU: l.MTU}
		}
	}
	holder := map[netip.Addr]*NIC{}
	for _, it := range st {
		if a, ok := it.(Addr); ok && !a.Learned && nics[a.Dev] != nil {
			nics[a.Dev].Addrs = append(nics[a.Dev].Addrs, a.Prefix)
			holder[a.Prefix.Addr()] = nics[a.Dev]
		}
	}
	for _, it := range st {
		switch it := it.(type) {
		case Route:
			pod.learn(it, nics[it.Dev])
		case Rule:
			if nic := holder[it.From.Addr()]; nic != nil && it.From.IsSingleIP() && Owned(it) {
				nic.Table = it.Table
			}
		}
	}
	for _, nic := range nics {
		if len(nic.Addrs) > 0 {
			slices.SortFunc(nic.Addrs, comparePrefix)
			pod.NICs = append(pod.NICs, *nic)
		}
	}
	slices.SortFunc(pod.NICs, func(a, b NIC) int {
		switch {
		case a.Name == first:
			return -1
		case b.Name == first:
			return 1
		}
		return compareNames(a.Name, b.Name)
	})
	return pod
}

// learn records a gateway or a route made by an attachment of the pod. nic is nil if
// the route leads through none of the pod's interfaces.
func (p *Pod) learn(r Route, nic *NIC) {
	switch {
	case !r.Via.IsValid() || r.Proto == protoRA:
	case r.IsDefault() && nic != nil:
		nic.AddGateway(r.Via)
		if f := inet.FamilyOf(r.Via); r.table() == TableMain && !slices.Contains(p.Defaults[f], nic.Name) {
			p.Defaults[f] = append(p.Defaults[f], nic.Name)
		}
	case r.IsDefault() || r.table() != TableMain:
	case Owned(r):
		p.Managed = append(p.Managed, r)
	case nic != nil:
		nic.Routes = append(nic.Routes, inet.Route{Dst: r.Dst, Via: r.Via})
	}
}

// AddGateway adds a default gateway, unless the NIC has one of its family.
func (n *NIC) AddGateway(gw netip.Addr) {
	if !n.gateway(inet.FamilyOf(gw)).IsValid() {
		n.Gateways = append(n.Gateways, gw)
	}
}

// compareNames orders net2 before net10.
func compareNames(a, b string) int {
	stemA, stemB := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	return cmp.Or(strings.Compare(stemA, stemB), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}
