// Package pool selects the pools for an interface of a pod, in order of preference,
// and explains each rejection.
//
// Package compile makes the values from custom resources. This package reads
// annotations, finds the source of pool names, filters and ranks. The Rejection of a
// considered pool names the field and the value, so that a user can act on it.
//
// Pure: no I/O, no clock, no Kubernetes.
package pool

import (
	"net/netip"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Pool is a SpiderIPPool. Do not change a Pool in a Catalog.
type Pool struct {
	Name    string
	Family  inet.Family // 4 or 6
	Subnet  netip.Prefix
	IPs     inet.Set // spec.ips
	Exclude inet.Set // spec.excludeIPs
	Gateway netip.Addr
	Routes  []inet.Route

	PodAffinity       *Selector // nil: every pod
	NamespaceAffinity *Selector // nil: every namespace; ignored if NamespaceNames is set
	NamespaceNames    []string
	NodeAffinity      *Selector // nil: every node; ignored if NodeNames is set
	NodeNames         []string
	// MultusNames are network attachments: "namespace/name", or "name" for any
	// namespace.
	MultusNames []string

	// Assignable is the number of addresses that the controller would still assign on demand. It never is in IPs.
	Assignable int64

	// Zone is the zone of the nodes that share the addresses; a cloud moves each to the node of its lease, and a pod waits for that. It is
	// empty for all other pools.
	Zone string

	Default     bool
	Disabled    bool
	Terminating bool
	// Invalid is why the resource is invalid, "" if it is valid. An invalid pool has no
	// IPs, and perhaps no Family.
	Invalid string
	// Foreign describes the addresses in use by pods of another Spiderpool release,
	// which keeps them elsewhere (compile.ForeignAllocations); "" if there are none.
	Foreign string
}

// Usable returns the addresses for pods: spec.ips without spec.excludeIPs, without
// the gateway and the next hops of spec.routes, without reserved, and without the
// special addresses of the subnet (inet.Special).
func (p *Pool) Usable(reserved inet.Set) inet.Set {
	never := append(inet.Special(p.Subnet), p.Gateway)
	for _, r := range p.Routes {
		never = append(never, r.Via)
	}
	return p.IPs.Minus(inet.Union(p.Exclude, reserved, inet.OfAddrs(never...)))
}
