package vpc

import (
	"fmt"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// routerRules are the source checks of a VPC's router, with one chain per ENI, before any other processing of a packet
// (table raw). Packets with link-local sources end here too: they belong to neighbour discovery, and ServeNeighbours
// reads them earlier. If the VPC has load balancers, replies to their redirected connections get a mark for routing.
func routerRules(enis []eni, family netfilter.Family, loadBalanced bool) string {
	var r rules
	r.printf("*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]")
	for _, e := range enis {
		r.printf(":%s - [0:0]", e.router.link)
	}
	for _, e := range enis {
		chain := e.router.link
		r.printf("-A PREROUTING -i %s -j %s", chain, chain)
		r.printf(`-A %s -m mac ! --mac-source %s -m comment --comment "%s: not the MAC of the ENI" -j DROP`, chain, e.MAC, e.owner)
		r.printf(`-A %s -m pkttype ! --pkt-type unicast -m comment --comment "%s: broadcast or multicast" -j DROP`, chain, e.owner)
		if !e.sourceCheck {
			continue
		}
		for _, assigned := range e.ranges {
			if netfilter.FamilyOf(assigned.Addr().Is4()) == family {
				r.printf("-A %s -s %s -j RETURN", chain, assigned)
			}
		}
		r.printf(`-A %s -m comment --comment "%s: source not assigned to the ENI" -j DROP`, chain, e.owner)
	}
	r.printf("COMMIT\n*mangle\n:PREROUTING ACCEPT [0:0]")
	if loadBalanced {
		r.printf("-A PREROUTING -m conntrack --ctstate DNAT --ctdir REPLY -j MARK --set-mark %#x", markLoadBalanced)
	}
	r.printf("COMMIT")
	return r.String()
}

// natGatewayRules translate IPv4 sources of the VPC to the NAT gateway's address and block new inbound connections.
func natGatewayRules(vpc topology.VPC, nat topology.NATGateway) string {
	var r rules
	r.printf("*filter\n:FORWARD DROP [0:0]")
	r.printf("-A FORWARD -s %s -j ACCEPT", vpc.IPv4)
	r.printf("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
	r.printf("COMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]")
	r.printf("-A POSTROUTING -s %s -o %s -j SNAT --to-source %s", vpc.IPv4, hostLink, nat.IPv4)
	r.printf("COMMIT")
	return r.String()
}

// internetGatewayRules translate public IPv4 addresses one-to-one and drop other IPv4 packets. They pass IPv6 packets
// from and to the VPC, except to internal load balancers.
func internetGatewayRules(t *topology.Topology, vpc topology.VPC, family netfilter.Family) string {
	var r rules
	r.printf("*filter\n:FORWARD DROP [0:0]")
	if family == netfilter.IPv6 {
		for _, addr := range internalIPv6(t) {
			r.printf("-A FORWARD -i %s -d %s -j DROP", internetLink, addr)
		}
		r.printf("-A FORWARD -i %s -s %s -j ACCEPT", vpcLink, vpc.IPv6)
		r.printf("-A FORWARD -i %s -d %s -j ACCEPT", internetLink, vpc.IPv6)
		r.printf("COMMIT")
		return r.String()
	}
	addresses := t.PublicAddresses(vpc)
	for _, a := range addresses {
		r.printf("-A FORWARD -i %s -s %s -j ACCEPT", vpcLink, a.Private)
		r.printf("-A FORWARD -i %s -d %s -j ACCEPT", internetLink, a.Private)
	}
	r.printf("COMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]")
	for _, a := range addresses {
		r.printf("-A PREROUTING -d %s -j DNAT --to-destination %s", a.Public, a.Private)
		r.printf("-A POSTROUTING -s %s -j SNAT --to-source %s", a.Private, a.Public)
	}
	r.printf("COMMIT")
	return r.String()
}

// internalIPv6 are the addresses of load balancers hidden from the internet.
func internalIPv6(t *topology.Topology) []netip.Addr {
	var addrs []netip.Addr
	for _, frontend := range t.LoadBalancer.Frontends {
		if frontend.Internal() {
			addrs = append(addrs, frontend.IPv6)
		}
	}
	return addrs
}

// gatewayGuard blocks access from the internet to a layer-2 network's private addresses and internal load balancers.
func gatewayGuard(t *topology.Topology, family netfilter.Family) string {
	var r rules
	r.printf("*raw\n:PREROUTING ACCEPT [0:0]")
	if family == netfilter.IPv6 {
		for _, addr := range internalIPv6(t) {
			r.printf("-A PREROUTING -i %s -d %s -j DROP", internetLink, addr)
		}
	} else {
		for _, subnet := range t.L2.Subnets {
			r.printf("-A PREROUTING -i %s -d %s -j DROP", internetLink, subnet.IPv4)
		}
	}
	r.printf("COMMIT")
	return r.String()
}

// gatewayRules translate traffic to the internet.
func gatewayRules(l2 *topology.L2) string {
	var r rules
	for _, subnet := range l2.Subnets {
		r.printf("-A %s -s %s -o %s -j SNAT --to-source %s", gatewayChain, subnet.IPv4, internetLink, l2.Gateway.PublicIPv4)
	}
	return r.String()
}

// rules is a text of lines.
type rules struct{ strings.Builder }

func (r *rules) printf(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }
