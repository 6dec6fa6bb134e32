package topology

import (
	"net/netip"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/test/lab/topologies"
)

func load(t *testing.T, name string) *Topology {
	t.Helper()
	topology, err := Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return topology
}

func TestEveryEmbeddedTopologyIsValid(t *testing.T) {
	for _, name := range Names() {
		load(t, name)
	}
}

func TestAWSNodesHaveTheGuidesAddresses(t *testing.T) {
	aws := load(t, "aws")
	for name, want := range map[string]string{
		"master":  "172.31.22.228/32 2406:da1e:c4:ed01::10/128 172.31.28.16/28 2406:da1e:c4:ed01:c57d::/80",
		"worker1": "172.31.32.18/32 2406:da1e:c4:ed02::10/128 172.31.32.176/28 2406:da1e:c4:ed02:7a2e::/80",
	} {
		t.Run(name, func(t *testing.T) {
			host, found := aws.Host(name)
			if !found {
				t.Fatalf("no host %s", name)
			}
			var got []string
			for _, prefix := range host.Interfaces[0].Assigned() {
				got = append(got, prefix.String())
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	subnet, _ := aws.Subnet("private-a")
	if subnet.GatewayIPv4.String() != "172.31.16.1" || subnet.GatewayIPv6.String() != "2406:da1e:c4:ed01::1" {
		t.Errorf("gateways of private-a are %s and %s", subnet.GatewayIPv4, subnet.GatewayIPv6)
	}
	if got := aws.RegistryAddress().String(); got != "172.31.0.20:5000" {
		t.Errorf("registry at %s", got)
	}
}

func TestPublicAddressesBelongToGatewaysVPC(t *testing.T) {
	aws := load(t, "aws")
	if got := len(aws.PublicAddresses(aws.VPCs[0])); got != 7 { // the NAT gateway's and six frontends'
		t.Errorf("main has %d public addresses, want 7", got)
	}
	if got := aws.PublicAddresses(aws.VPCs[1]); len(got) != 0 {
		t.Errorf("partner has public addresses %v", got)
	}
}

func TestWithNodesGeneratesDistinctWorkers(t *testing.T) {
	for _, name := range Names() {
		grown, err := load(t, name).WithNodes(6) // WithNodes validates, so duplicate addresses fail
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(grown.Nodes) != 6 || grown.Nodes[5].Name != "worker5" {
			t.Errorf("%s: nodes are %v", name, grown.Nodes)
		}
	}
	grown, err := load(t, "aws").WithNodes(4)
	if err != nil {
		t.Fatal(err)
	}
	if got := grown.Nodes[2].Interfaces[0]; got.Subnet != "private-b" || got.IPv4.String() != "172.31.32.33" ||
		got.Prefixes[0].String() != "172.31.32.64/28" || got.Prefixes[1].String() != "2406:da1e:c4:ed02:8000::/80" {
		t.Errorf("worker2 has %+v", got)
	}
	if got := grown.Nodes[3].Interfaces[0].Subnet; got != "private-a" {
		t.Errorf("worker3 is in %s", got)
	}
}

func TestOneNodeIsTheControlPlane(t *testing.T) {
	one, err := load(t, "aws").WithNodes(1)
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Nodes) != 1 || one.Nodes[0].Name != "master" {
		t.Errorf("nodes are %v", one.Nodes)
	}
}

func TestFullNodeRangeIsNamed(t *testing.T) {
	_, err := load(t, "aws").WithNodes(40)
	if err == nil || !strings.Contains(err.Error(), "no /28 is left in 172.31.32.64/26") {
		t.Errorf("got %v", err)
	}
	if _, err := load(t, "aws").WithNodes(0); err == nil {
		t.Error("a cluster without nodes was accepted")
	}
}

func TestInvalidTopologyErrorNamesTheField(t *testing.T) {
	for _, test := range []struct{ name, base, old, new, want string }{
		{"unknown key", "aws", "zone: ap-east-1a,", "zoen: ap-east-1a,", "field zoen not found"},
		{"kind", "aws", "kind: aws", "kind: gcp", `kind: "gcp" is neither aws nor l2`},
		{"kind and contents", "aws", "kind: aws", "kind: l2", `kind: "l2" needs vpcs (aws) or l2 (l2)`},
		{"host bits", "aws", "ipv4: 172.31.16.0/20", "ipv4: 172.31.16.1/20", "172.31.16.1/20 has host bits; write 172.31.16.0/20"},
		{"subnet out of VPC", "aws", "ipv4: 172.31.32.0/24,", "ipv4: 172.32.32.0/24,", "172.32.32.0/24 is not in the VPC's 172.31.0.0/16"},
		{"address outside the subnet", "aws", "ipv4: 172.31.32.18", "ipv4: 180.17.16.17", "interfaces[0].ipv4: 180.17.16.17 is not in 172.31.32.0/24"},
		{"prefix elsewhere", "aws", "172.31.32.176/28", "172.31.33.176/28", "172.31.33.176/28 is not in subnet private-b"},
		{"prefix taken", "aws", "172.31.32.176/28", "172.31.32.16/28", "overlaps"},
		{"family", "aws", `ipv6: "2406:da1e:c4:ed01::/64"`, "ipv6: 10.0.0.0/8", "10.0.0.0/8 is not an IPv6 range"},
		{"subnets overlap", "aws", "ipv4: 172.31.0.0/24,", "ipv4: 172.31.0.0/19,", "overlaps with subnet public-a"},
		{"route table", "aws", "routeTable: private}", "routeTable: privat}", `"privat" is not one of the VPC's route tables`},
		{"target", "aws", "nat-gateway/nat-a", "nat-gateway/nat-b", `"nat-b" is not one of the VPC's natGateways`},
		{"target kind", "aws", "nat-gateway/nat-a", "vpn/x", `target "vpn/x" is none of`},
		{"no gateway", "aws", "internetGateway: true", "internetGateway: false", "the VPC has no internet gateway"},
		{"peering", "aws", "vpcs: [main, partner]", "vpcs: [main, main]", `peerings[0].vpcs: ["main" "main"] must name two`},
		{"mac", "aws", "06:4e:ac:1f:16:e4", "07:4e:ac:1f:16:e4", "not a unicast Ethernet address"},
		{"mac twice", "aws", "06:4e:ac:1f:16:e4", "0a:5c:ac:1f:20:12", "already the MAC address of master/ens5"},
		{"name twice", "aws", "name: peer\n", "name: registry\n", `"registry" is there twice`},
		{"gateway assigned", "aws", "ipv4: 172.31.22.228", "ipv4: 172.31.16.1", "holds the gateway of subnet private-a"},
		{"cloud API", "aws", "host: ec2, port", "host: ec3, port", `cloudAPI.host: "ec3" is not one of the hosts`},
		{"registry", "aws", "host: registry, port", "host: registy, port", `registry.host: "registy" is not one of the hosts`},
		{"public twice", "aws", "publicIPv4: 203.0.113.101", "publicIPv4: 203.0.113.100", "203.0.113.100 is there twice"},
		{"template", "aws", "from: 172.31.24.0/22, bits: 28", "from: 172.31.24.0/22, bits: 20", "/20 does not fit in 172.31.24.0/22"},
		{"pods on a host", "l2", "podIPv4: 10.6.128.0/17", "podIPv4: 10.6.0.0/17", "overlaps"},
		{"l2 load balancer", "l2", "host: gateway\n  subnet", "host: peer\n  subnet", `must be the gateway, "gateway"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := topologies.FS.ReadFile(test.base + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			broken := strings.Replace(string(data), test.old, test.new, 1)
			if broken == string(data) {
				t.Fatalf("the file does not contain %q", test.old)
			}
			_, err = Parse([]byte(broken))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want ...%s...", err, test.want)
			}
		})
	}
}

func TestUnknownTopologyErrorListsTheKnown(t *testing.T) {
	_, err := Load("azure")
	if err == nil || !strings.Contains(err.Error(), "known: aws, l2") {
		t.Errorf("got %v", err)
	}
}

func TestDerivedMACIsLocalAndUnicast(t *testing.T) {
	var mac MAC
	completeMAC(&mac, netip.MustParseAddr("10.6.0.50"))
	if mac.String() != "06:01:0a:06:00:32" {
		t.Errorf("got %s", mac)
	}
}
