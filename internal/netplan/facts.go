package netplan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// PodOf finds a pod's interfaces in the state of its namespace: every link with
// an address but loopback and PodVeth. The one named first comes first, the
// others in the order of their names, with numbers as numbers. A gateway is the
// next hop of a default route by the interface, in whichever table.
func PodOf(st State, first string) Pod {
	nics := map[string]*NIC{}
	for _, it := range st {
		if l, ok := it.(Link); ok && l.Name != PodVeth && l.Name != "lo" {
			nics[l.Name] = &NIC{Name: l.Name, MAC: l.MAC}
		}
	}
	for _, it := range st {
		switch it := it.(type) {
		case Addr:
			if nic := nics[it.Dev]; nic != nil {
				nic.Addrs = append(nic.Addrs, it.Prefix)
			}
		case Route:
			if nic := nics[it.Dev]; nic != nil {
				nic.learn(it)
			}
		}
	}
	var pod Pod
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

// learn takes from a route what the interface's attachment brought along.
func (n *NIC) learn(r Route) {
	switch {
	case !r.Via.IsValid():
	case r.IsDefault():
		n.AddGateway(r.Via)
	case r.Proto != Protocol && r.table() == TableMain:
		n.Routes = append(n.Routes, Hop{Dst: r.Dst, Via: r.Via})
	}
}

// AddGateway notes a default gateway, unless one of its family is known.
func (n *NIC) AddGateway(gw netip.Addr) {
	if !n.gateway(FamilyOf(gw)).IsValid() {
		n.Gateways = append(n.Gateways, gw)
	}
}

// compareNames orders net2 before net10.
func compareNames(a, b string) int {
	stemA, stemB := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	return cmp.Or(strings.Compare(stemA, stemB), cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}
