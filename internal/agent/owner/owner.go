// Package owner finds the pod of a network namespace by the leases of its addresses.
//
// A process with CAP_NET_ADMIN in a pod can change the pod's addresses, and so take part in the answer: at most about its
// own namespace. So an answer may decide what a pod gets, not what it may do to others.
package owner

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Holders are the leases of addresses with one holder. An address with several, e.g. that of a former sandbox, proves
// nothing; its lease has no PodUID.
type Holders map[netip.Addr]lease.Lease

// Of returns the holders of leases.
func Of(leases []lease.Lease) Holders {
	out := Holders{}
	for _, l := range leases {
		if held, ok := out[l.Addr]; ok && held.PodUID != l.PodUID {
			l.PodUID = ""
		}
		out[l.Addr] = l
	}
	return out
}

// Leases returns the leases of the addresses in a namespace with this state, or none if they belong to several pods.
func (h Holders) Leases(st netplan.State) (leases []lease.Lease) {
	for _, it := range st {
		a, ok := it.(netplan.Addr)
		if !ok || h[a.Prefix.Addr()].PodUID == "" {
			continue
		}
		l := h[a.Prefix.Addr()]
		if len(leases) > 0 && leases[0].PodUID != l.PodUID {
			return nil
		}
		leases = append(leases, l)
	}
	return leases
}
