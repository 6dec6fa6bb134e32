// Package pool decides which pools an interface of a pod may take an address
// from, in which order, and why not from the others.
//
// The values here are compiled from the custom resources elsewhere; this package
// reads annotations, resolves the source of pools, filters and ranks. Every pool
// that was considered and dropped comes back with a reason that names the field
// and the value, in words that a user can act on.
//
// Pure: no I/O, no clock, no Kubernetes.
package pool

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Pool is a SpiderIPPool that compiled without error. It is not changed once it
// is in a Catalog.
type Pool struct {
	Name    string
	Family  inet.Family // 4 or 6
	Subnet  netip.Prefix
	IPs     inet.Set // spec.ips
	Exclude inet.Set // spec.excludeIPs
	Gateway netip.Addr
	Routes  []inet.Route

	PodAffinity       *Selector // nil: every pod
	NamespaceAffinity *Selector // nil: every namespace; ignored where NamespaceNames is set
	NamespaceNames    []string
	NodeAffinity      *Selector // nil: every node; ignored where NodeNames is set
	NodeNames         []string
	// MultusNames are network attachments: "namespace/name", or "name" for an
	// attachment of that name in any namespace.
	MultusNames []string

	Default     bool
	Disabled    bool
	Terminating bool
}

// Usable returns the addresses that the pool may hand out: spec.ips without
// spec.excludeIPs, the gateway, reserved, and the addresses of the subnet that no
// host may have: the network and the broadcast address of an IPv4 subnet (RFC
// 1122, 3.2.1.3) up to /30, the subnet-router anycast address of an IPv6 subnet
// (RFC 4291, 2.6.1) up to /126.
func (p *Pool) Usable(reserved inet.Set) inet.Set {
	never := []netip.Addr{p.Gateway}
	if p.Subnet.IsValid() && p.Subnet.Bits() <= p.Subnet.Addr().BitLen()-2 {
		subnet := inet.OfPrefix(p.Subnet).Ranges()[0]
		never = append(never, subnet.From())
		if p.Family == 4 {
			never = append(never, subnet.To())
		}
	}
	return p.IPs.Minus(inet.Union(p.Exclude, reserved, inet.OfAddrs(never...)))
}
