package topology

import (
	"fmt"
	"net/netip"
)

// checkUnique reports duplicates: of host names, MAC addresses, assigned and public addresses.
func (t *Topology) checkUnique(c *checker) {
	names := map[string]bool{}
	for _, name := range append(t.HostNames(), t.fabricNames()...) {
		if !hostName.MatchString(name) {
			c.failf("host name", "%q does not match %s", name, hostName)
		}
		if names[name] {
			c.failf("host name", "%q is there twice", name)
		}
		names[name] = true
	}
	macs := map[string]string{}
	t.eachMAC(func(field string, mac MAC) {
		if first, taken := macs[mac.String()]; taken {
			c.failf(field, "%s is already the MAC address of %s", mac, first)
		}
		macs[mac.String()] = field
	})
	assigned := t.assignments()
	for i, a := range assigned {
		for _, b := range assigned[:i] {
			if a.prefix.Overlaps(b.prefix) {
				c.failf(a.field, "%s overlaps with %s of %s", a.prefix, b.prefix, b.field)
			}
		}
		for _, subnet := range t.subnets() {
			for _, gateway := range []netip.Addr{subnet.GatewayIPv4, subnet.GatewayIPv6} {
				if a.prefix.Contains(gateway) {
					c.failf(a.field, "%s holds the gateway of subnet %s", a.prefix, subnet.Name)
				}
			}
		}
	}
	public := map[netip.Addr]bool{}
	for _, addr := range t.publicAddresses() {
		if public[addr] {
			c.failf("publicIPv4", "%s is there twice", addr)
		}
		if t.Internet.IPv4.Masked().Contains(addr) {
			c.failf("publicIPv4", "%s lies in the internet host's own %s", addr, t.Internet.IPv4.Masked())
		}
		public[addr] = true
	}
}

func (t *Topology) eachMAC(visit func(field string, mac MAC)) {
	for _, host := range t.Machines() {
		for _, iface := range host.Interfaces {
			visit(host.Name+"/"+iface.Name, iface.MAC)
		}
	}
	for _, vpc := range t.VPCs {
		for _, nat := range vpc.NATGateways {
			visit(nat.Name, nat.MAC)
		}
	}
	if t.L2 != nil {
		visit(t.L2.Gateway.Host, t.L2.Gateway.MAC)
	}
}

// assignments returns every range of an interface. The load balancer's addresses belong to the gateway on a layer-2
// network and to a host in a VPC.
func (t *Topology) assignments() []assignment {
	var all []assignment
	add := func(field string, prefix netip.Prefix) { all = append(all, assignment{field, prefix}) }
	for _, host := range t.Machines() {
		for _, iface := range host.Interfaces {
			for _, prefix := range iface.Assigned() {
				add(host.Name+"/"+iface.Name, prefix)
			}
		}
	}
	for _, vpc := range t.VPCs {
		for _, nat := range vpc.NATGateways {
			add(nat.Name, netip.PrefixFrom(nat.IPv4, nat.IPv4.BitLen()))
		}
	}
	if t.L2 != nil {
		for i, frontend := range t.LoadBalancer.Frontends {
			for _, addr := range []netip.Addr{frontend.IPv4, frontend.IPv6} {
				add(fmt.Sprintf("loadBalancer.frontends[%d]", i), netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
		add("l2.podIPv4", t.L2.PodIPv4)
		add("l2.podIPv6", t.L2.PodIPv6)
	}
	return all
}

func (t *Topology) publicAddresses() []netip.Addr {
	var all []netip.Addr
	for _, vpc := range t.VPCs {
		for _, pair := range t.PublicAddresses(vpc) {
			all = append(all, pair.Public)
		}
	}
	if t.L2 != nil {
		all = append(all, t.L2.Gateway.PublicIPv4)
		for _, frontend := range t.LoadBalancer.Frontends {
			if !frontend.Internal() {
				all = append(all, frontend.PublicIPv4)
			}
		}
	}
	return all
}
