package netplan

import (
	"fmt"
	"net/netip"
	"strconv"

	"spiderpool.dev/spiderpool/internal/inet"
)

// minIPv6MTU is the least MTU that IPv6 works on (RFC 8200, section 5).
const minIPv6MTU = 1280

// check reports the first setting that no plan can be made from.
func (s Settings) check(p Pod, n Node) error {
	if len(p.NICs) == 0 {
		return fmt.Errorf("the pod has no interface with an address")
	}
	switch {
	case s.HostRuleTable < 1 || s.HostRuleTable >= 253 && s.HostRuleTable <= 255:
		return &FieldError{"hostRuleTable", strconv.Itoa(s.HostRuleTable), "want a table above 0 other than 253 (default), 254 (main) and 255 (local)"}
	case s.RPFilter < 0 || s.RPFilter > 2:
		return &FieldError{"podRPFilter", strconv.Itoa(s.RPFilter), "want 0 (off), 1 (strict) or 2 (loose)"}
	case s.TxQueueLen < 0:
		return &FieldError{"txQueueLen", strconv.Itoa(s.TxQueueLen), "want a number of packets, or 0 to leave it"}
	case s.VethLinkAddr.IsValid() && !s.VethLinkAddr.IsLinkLocalUnicast():
		return &FieldError{"vethLinkAddress", s.VethLinkAddr.String(), "want an address in 169.254.0.0/16 or fe80::/10"}
	case s.VethMTU < 0 || s.VethMTU > 65535:
		return &FieldError{"vethMTU", strconv.Itoa(s.VethMTU), "want a number of bytes up to 65535, or 0 to leave it"}
	case !carriesIPv6(s.VethMTU) && p.has(inet.IPv6):
		return &FieldError{"vethMTU", strconv.Itoa(s.VethMTU), "the pod has an IPv6 address, which needs 1280 bytes or more"}
	}
	if s.DefaultNIC != "" && !s.TunePodRoutes && len(p.NICs) > 1 {
		return &FieldError{"podDefaultRouteNIC", s.DefaultNIC, "tunePodRoutes is false: the default route stays where the interfaces' plugins put it"}
	}
	for _, r := range s.PolicyRoutes {
		if err := s.checkPolicyRoute(p, r); err != nil {
			return err
		}
	}
	return s.checkNetworks(p, n)
}

func (s Settings) checkPolicyRoute(p Pod, r inet.Route) error {
	value := fmt.Sprintf("%s via %s", r.Dst, r.Via)
	if r.Dst != r.Dst.Masked() {
		return &FieldError{"policyRoutes", value, "the destination has host bits, want " + r.Dst.Masked().String()}
	}
	if !r.Via.IsValid() || inet.FamilyOf(r.Via) != inet.FamilyOf(r.Dst.Addr()) {
		return &FieldError{"policyRoutes", value, "destination and gateway are not of one IP version"}
	}
	f := inet.FamilyOf(r.Via)
	if !s.OwnPolicyRoutes || !p.has(f) {
		return nil // a dual-stack configuration and a pod with one of the two
	}
	if _, ok := p.nicOf(r.Via); !ok {
		return &FieldError{"policyRoutes", value, "the gateway is in no subnet of the pod's interfaces (" + p.subnets() + ")"}
	}
	return nil
}

// checkNetworks refuses networks behind the node that would cut off the pod's
// own: a hijacked network may not overlap a subnet of the pod, and a service
// network may not hold its addresses or gateways.
func (s Settings) checkNetworks(p Pod, n Node) error {
	for _, nic := range p.NICs {
		for _, a := range nic.Addrs {
			for _, h := range s.HijackCIDR {
				if h.Overlaps(a.Masked()) {
					return &FieldError{"hijackCIDR", h.String(), fmt.Sprintf("overlaps the subnet %s of the pod's interface %s", a.Masked(), nic.Name)}
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

func (p Pod) subnets() string {
	var all []netip.Prefix
	for _, nic := range p.NICs {
		for _, a := range nic.Addrs {
			all = append(all, a.Masked())
		}
	}
	return fmt.Sprint(all)
}
