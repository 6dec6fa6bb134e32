package vpc

import (
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/test/lab/internal/netfilter"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// small is a VPC with one node and a NAT gateway.
func small(t *testing.T) *topology.Topology {
	t.Helper()
	topo, err := topology.Parse([]byte(`
kind: aws
vpcs:
- name: main
  ipv4: 10.0.0.0/16
  ipv6: 2001:db8:1::/56
  internetGateway: true
  subnets:
  - {name: a, ipv4: 10.0.1.0/24, ipv6: "2001:db8:1::/64", routeTable: a}
  routeTables:
  - {name: a, routes: [{destination: 0.0.0.0/0, target: nat-gateway/nat}, {destination: "::/0", target: internet-gateway}]}
  natGateways:
  - {name: nat, subnet: a, ipv4: 10.0.1.2, publicIPv4: 203.0.113.1}
internet: {host: internet, ipv4: 198.51.100.10/24, ipv6: "2001:db8:f::10/64", gatewayIPv4: 198.51.100.1, gatewayIPv6: "2001:db8:f::1"}
nodes:
- name: master
  interfaces:
  - {name: ens5, subnet: a, mac: "06:00:00:00:00:01", ipv4: 10.0.1.10, ipv6: "2001:db8:1::10",
     prefixes: [10.0.1.32/28, "2001:db8:1:0:8000::/80"]}
registry: {host: master-registry, port: 5000}
hosts:
- {name: master-registry, interfaces: [{name: eth0, subnet: a, ipv4: 10.0.1.20, ipv6: "2001:db8:1::20", publicIPv4: 203.0.113.3}]}
loadBalancer:
  host: lb
  subnet: a
  frontends:
  - {ipv4: 10.0.1.100, ipv6: "2001:db8:1::100", publicIPv4: 203.0.113.2}
  - {ipv4: 10.0.1.101, ipv6: "2001:db8:1::101"}
`))
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func TestSourceChecksUseMACAndAssignedRanges(t *testing.T) {
	topo := small(t)
	enis := newFabric(topo, topo.VPCs[0]).enis
	node, nat := enis[0], enis[len(enis)-1]
	for family, want := range map[netfilter.Family]string{
		netfilter.IPv4: `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:eni0a00010a - [0:0]
:eni0a000102 - [0:0]
-A PREROUTING -i eni0a00010a -j eni0a00010a
-A eni0a00010a -m mac ! --mac-source 06:00:00:00:00:01 -m comment --comment "master/ens5: not the MAC of the ENI" -j DROP
-A eni0a00010a -m pkttype ! --pkt-type unicast -m comment --comment "master/ens5: broadcast or multicast" -j DROP
-A eni0a00010a -s 10.0.1.10/32 -j RETURN
-A eni0a00010a -s 10.0.1.32/28 -j RETURN
-A eni0a00010a -m comment --comment "master/ens5: source not assigned to the ENI" -j DROP
-A PREROUTING -i eni0a000102 -j eni0a000102
-A eni0a000102 -m mac ! --mac-source 06:01:0a:00:01:02 -m comment --comment "nat/eth0: not the MAC of the ENI" -j DROP
-A eni0a000102 -m pkttype ! --pkt-type unicast -m comment --comment "nat/eth0: broadcast or multicast" -j DROP
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m conntrack --ctstate DNAT --ctdir REPLY -j MARK --set-mark 0x1
COMMIT
`,
		netfilter.IPv6: `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:eni0a00010a - [0:0]
:eni0a000102 - [0:0]
-A PREROUTING -i eni0a00010a -j eni0a00010a
-A eni0a00010a -m mac ! --mac-source 06:00:00:00:00:01 -m comment --comment "master/ens5: not the MAC of the ENI" -j DROP
-A eni0a00010a -m pkttype ! --pkt-type unicast -m comment --comment "master/ens5: broadcast or multicast" -j DROP
-A eni0a00010a -s 2001:db8:1::10/128 -j RETURN
-A eni0a00010a -s 2001:db8:1:0:8000::/80 -j RETURN
-A eni0a00010a -m comment --comment "master/ens5: source not assigned to the ENI" -j DROP
-A PREROUTING -i eni0a000102 -j eni0a000102
-A eni0a000102 -m mac ! --mac-source 06:01:0a:00:01:02 -m comment --comment "nat/eth0: not the MAC of the ENI" -j DROP
-A eni0a000102 -m pkttype ! --pkt-type unicast -m comment --comment "nat/eth0: broadcast or multicast" -j DROP
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m conntrack --ctstate DNAT --ctdir REPLY -j MARK --set-mark 0x1
COMMIT
`,
	} {
		t.Run(string(family), func(t *testing.T) {
			if got := routerRules([]eni{node, nat}, family, true); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestInternetGatewayHidesInternalLoadBalancers(t *testing.T) {
	topo := small(t)
	for family, want := range map[netfilter.Family]string{
		netfilter.IPv4: `*filter
:FORWARD DROP [0:0]
-A FORWARD -i vpc -s 10.0.1.2 -j ACCEPT
-A FORWARD -i internet -d 10.0.1.2 -j ACCEPT
-A FORWARD -i vpc -s 10.0.1.20 -j ACCEPT
-A FORWARD -i internet -d 10.0.1.20 -j ACCEPT
-A FORWARD -i vpc -s 10.0.1.100 -j ACCEPT
-A FORWARD -i internet -d 10.0.1.100 -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 203.0.113.1 -j DNAT --to-destination 10.0.1.2
-A POSTROUTING -s 10.0.1.2 -j SNAT --to-source 203.0.113.1
-A PREROUTING -d 203.0.113.3 -j DNAT --to-destination 10.0.1.20
-A POSTROUTING -s 10.0.1.20 -j SNAT --to-source 203.0.113.3
-A PREROUTING -d 203.0.113.2 -j DNAT --to-destination 10.0.1.100
-A POSTROUTING -s 10.0.1.100 -j SNAT --to-source 203.0.113.2
COMMIT
`,
		netfilter.IPv6: `*filter
:FORWARD DROP [0:0]
-A FORWARD -i internet -d 2001:db8:1::101 -j DROP
-A FORWARD -i vpc -s 2001:db8:1::/56 -j ACCEPT
-A FORWARD -i internet -d 2001:db8:1::/56 -j ACCEPT
COMMIT
`,
	} {
		t.Run(string(family), func(t *testing.T) {
			if got := internetGatewayRules(topo, topo.VPCs[0], family); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestLinkNamesFitTheKernel(t *testing.T) {
	for _, name := range []string{eniLink(netip.MustParseAddr("255.255.255.255")), peeringLink(61), internetGatewayLink, "gateway"} {
		if len(name) > 15 {
			t.Errorf("%s has %d characters", name, len(name))
		}
	}
}
