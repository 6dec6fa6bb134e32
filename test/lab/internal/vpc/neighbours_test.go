package vpc

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

var routerMAC = net.HardwareAddr{0x06, 0xff, 0, 0, 0, 1}

// worker2Port is the router's port for worker2, which shares its subnet with worker1.
func worker2Port(t *testing.T) port {
	t.Helper()
	described, err := topology.Load("aws")
	if err != nil {
		t.Fatal(err)
	}
	topo, err := described.WithNodes(3)
	if err != nil {
		t.Fatal(err)
	}
	f := newFabric(topo, topo.VPCs[0])
	for _, e := range f.enis {
		if e.owner == "worker2/ens5" {
			return port{e, routerMAC, func(addr netip.Addr) (eni, bool) {
				at := slices.IndexFunc(f.enis, func(e eni) bool {
					return slices.ContainsFunc(e.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
				})
				if at < 0 {
					return eni{}, false
				}
				return f.enis[at], true
			}}
		}
	}
	t.Fatal("worker2 has no ENI")
	return port{}
}

func frame(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	data, err := serialize(parts...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func arpRequest(t *testing.T, ethernetMAC, arpMAC net.HardwareAddr, from, target string) []byte {
	return frame(t,
		&layers.Ethernet{SrcMAC: ethernetMAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: arpMAC, SourceProtAddress: netip.MustParseAddr(from).AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: netip.MustParseAddr(target).AsSlice(),
		})
}

func solicitation(t *testing.T, mac net.HardwareAddr, hopLimit uint8, from, target string) []byte {
	header := &layers.IPv6{
		Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: hopLimit,
		SrcIP: net.ParseIP(from), DstIP: net.ParseIP("ff02::1:ff00:d"),
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	if err := icmp.SetNetworkLayerForChecksum(header); err != nil {
		t.Fatal(err)
	}
	return frame(t,
		&layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 0x0d}, EthernetType: layers.EthernetTypeIPv6},
		header, icmp, &layers.ICMPv6NeighborSolicitation{TargetAddress: net.ParseIP(target)})
}

func TestVPCAnswersForGatewayAndENIs(t *testing.T) {
	p := worker2Port(t)
	own, alien := net.HardwareAddr(p.MAC), net.HardwareAddr{2, 0, 0, 0, 0, 9}
	const ip4, ip6, linkLocal = "172.31.32.33", "2406:da1e:c4:ed02::2:1", "fe80::1"
	for _, test := range []struct {
		name     string
		request  []byte
		answered bool
	}{
		{"ARP for the gateway", arpRequest(t, own, own, ip4, "172.31.32.1"), true},
		{"ARP for another ENI", arpRequest(t, own, own, ip4, "172.31.32.18"), true},
		{"ARP for a pod behind another ENI", arpRequest(t, own, own, ip4, "172.31.32.184"), true},
		{"ARP from a pod of the ENI", arpRequest(t, own, own, "172.31.32.70", "172.31.32.184"), true},
		{"ARP probe", arpRequest(t, own, own, "0.0.0.0", "172.31.32.18"), true},
		{"ARP probe for its own address", arpRequest(t, own, own, "0.0.0.0", ip4), false},
		{"ARP for a pod of the same ENI", arpRequest(t, own, own, ip4, "172.31.32.70"), false},
		{"gratuitous ARP for another's address", arpRequest(t, own, own, "172.31.32.18", "172.31.32.18"), false},
		{"ARP for an unassigned address", arpRequest(t, own, own, ip4, "172.31.32.200"), false},
		{"ARP for another subnet", arpRequest(t, own, own, ip4, "172.31.22.228"), false},
		{"ARP for another subnet's gateway", arpRequest(t, own, own, ip4, "172.31.16.1"), false},
		{"ARP from another's address", arpRequest(t, own, own, "172.31.32.18", "172.31.32.1"), false},
		{"ARP from another MAC", arpRequest(t, alien, alien, ip4, "172.31.32.1"), false},
		{"ARP claiming another MAC", arpRequest(t, own, alien, ip4, "172.31.32.1"), false},
		{"NDP for the gateway", solicitation(t, own, 255, ip6, "2406:da1e:c4:ed02::1"), true},
		{"NDP for a pod behind another ENI", solicitation(t, own, 255, ip6, "2406:da1e:c4:ed02:7a2e::d"), true},
		{"NDP from a link-local address", solicitation(t, own, 255, linkLocal, "2406:da1e:c4:ed02::1"), true},
		{"duplicate detection of another's address", solicitation(t, own, 255, "::", "2406:da1e:c4:ed02::10"), true},
		{"duplicate detection of its own address", solicitation(t, own, 255, "::", ip6), false},
		{"NDP for an unassigned address", solicitation(t, own, 255, ip6, "2406:da1e:c4:ed02::999"), false},
		{"NDP for another subnet", solicitation(t, own, 255, ip6, "2406:da1e:c4:ed01::10"), false},
		{"NDP from another MAC", solicitation(t, alien, 255, ip6, "2406:da1e:c4:ed02::1"), false},
		{"NDP from another link", solicitation(t, own, 254, ip6, "2406:da1e:c4:ed02::1"), false},
		{"a fragment of a frame", arpRequest(t, own, own, ip4, "172.31.32.1")[:20], false},
		{"nothing", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := p.answer(test.request)
			if err != nil {
				t.Errorf("%v", err)
			}
			if (answer != nil) != test.answered {
				t.Errorf("answered = %v, want %v", answer != nil, test.answered)
			}
		})
	}
}

func TestARPReplyHasTheRoutersMAC(t *testing.T) {
	p := worker2Port(t)
	answer, err := p.answer(arpRequest(t, net.HardwareAddr(p.MAC), net.HardwareAddr(p.MAC), "172.31.32.33", "172.31.32.184"))
	if err != nil {
		t.Fatal(err)
	}
	reply, ok := gopacket.NewPacket(answer, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok {
		t.Fatal("the answer is not ARP")
	}
	if got := net.HardwareAddr(reply.SourceHwAddress).String() + " " + net.IP(reply.SourceProtAddress).String() + " " +
		net.HardwareAddr(reply.DstHwAddress).String() + " " + net.IP(reply.DstProtAddress).String(); got !=
		routerMAC.String()+" 172.31.32.184 "+p.MAC.String()+" 172.31.32.33" {
		t.Errorf("got %s", got)
	}
}

func TestOnlyDuplicateDetectionGetsUnsolicitedAnswers(t *testing.T) {
	p := worker2Port(t)
	for _, test := range []struct {
		from, to  string
		solicited bool
	}{
		{"2406:da1e:c4:ed02::2:1", "2406:da1e:c4:ed02::2:1", true},
		{"::", "ff02::1", false},
	} {
		t.Run("from "+test.from, func(t *testing.T) {
			answer, err := p.answer(solicitation(t, net.HardwareAddr(p.MAC), 255, test.from, "2406:da1e:c4:ed02:7a2e::d"))
			if err != nil {
				t.Fatal(err)
			}
			packet := gopacket.NewPacket(answer, layers.LayerTypeEthernet, gopacket.Default)
			if _, mismatches := packet.VerifyChecksums(); len(mismatches) > 0 {
				t.Errorf("checksums: %v", mismatches)
			}
			header := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
			advertisement := packet.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			if advertisement.Solicited() != test.solicited || !advertisement.Override() || header.HopLimit != 255 ||
				header.DstIP.String() != test.to || net.HardwareAddr(advertisement.Options[0].Data).String() != routerMAC.String() {
				t.Errorf("got %v to %s", advertisement, header.DstIP)
			}
		})
	}
}
