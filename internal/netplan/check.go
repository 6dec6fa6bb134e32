package netplan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// minIPv6MTU is the least MTU that IPv6 works on (RFC 8200, section 5).
const minIPv6MTU = 1280

// check returns the first setting that rules out a plan for the pod.
func (s Settings) check(p Pod, n Node) error {
	if len(p.NICs) == 0 {
		return errors.New("the pod has no interface with an address")
	}
	if errs := s.Validate(); len(errs) > 0 {
		return &errs[0]
	}
	if !carriesIPv6(s.VethMTU) && p.has(inet.IPv6) {
		return &FieldError{"vethMTU", s.VethMTU, "the pod has an IPv6 address, which needs 1280 bytes or more"}
	}
	if s.DefaultNIC != "" && !s.TunePodRoutes && len(p.NICs) > 1 {
		return &FieldError{"podDefaultRouteNIC", s.DefaultNIC, "tunePodRoutes is false, so the default route stays where the interfaces' plugins put it"}
	}
	for _, r := range s.PolicyRoutes {
		if !s.OwnPolicyRoutes || !p.has(inet.FamilyOf(r.Via)) {
			continue // the cluster's routes, or a dual-stack configuration and a single-stack pod
		}
		if _, fault := p.nextHop(r.Via); fault != "" {
			return &FieldError{"policyRoutes", r.String(), "the gateway " + fault}
		}
	}
	return s.checkNetworks(p, n)
}

// checkNetworks refuses networks behind the node that would cut off the pod's
// own: a service network may not hold its addresses or gateways, and a hijacked
// network may not overlap its subnets. A hijacked single address may, e.g. a virtual
// address that moves between nodes, unless it is the pod's own or its gateway.
func (s Settings) checkNetworks(p Pod, n Node) error {
	for _, nic := range p.NICs {
		for _, a := range nic.Addrs {
			for _, h := range s.HijackCIDR {
				if fault := nic.hijackFault(h, a); fault != "" {
					return &FieldError{"hijackCIDR", h.String(), fault}
				}
			}
			for _, m := range n.Addrs {
				if m.Addr() == a.Addr() {
					return fmt.Errorf("address %s of the pod's interface %s is an address of the node: exclude it from the pool", a.Addr(), nic.Name)
				}
			}
			for _, c := range s.ServiceCIDR {
				if c.Contains(a.Addr()) {
					return &FieldError{"serviceCIDR", c.String(), fmt.Sprintf("holds the address %s of the pod's interface %s", a.Addr(), nic.Name)}
				}
			}
		}
		for _, g := range nic.Gateways {
			for _, c := range s.ServiceCIDR {
				if c.Contains(g) {
					return &FieldError{"serviceCIDR", c.String(), fmt.Sprintf("holds the gateway %s of the pod's interface %s", g, nic.Name)}
				}
			}
		}
	}
	return nil
}

// hijackFault returns why a network cannot be hijacked from the subnet of an address of
// the interface, "" if it can.
func (n NIC) hijackFault(hijacked, addr netip.Prefix) string {
	switch {
	case !hijacked.Overlaps(addr.Masked()):
	case !hijacked.IsSingleIP():
		return fmt.Sprintf("overlaps the subnet %s of the pod's interface %s; name single addresses of it, with /%d", addr.Masked(), n.Name, addr.Addr().BitLen())
	case hijacked.Addr() == addr.Addr():
		return "is the address of the pod's interface " + n.Name
	case slices.Contains(n.Gateways, hijacked.Addr()):
		return "is the gateway of the pod's interface " + n.Name
	}
	return ""
}

func (p Pod) subnets() string {
	var all []netip.Prefix
	for _, nic := range p.NICs {
		for _, a := range nic.Addrs {
			all = append(all, a.Masked())
		}
	}
	return fmt.Sprint(all)
}
