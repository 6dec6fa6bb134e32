package netplan

import (
	"reflect"
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

// TestPodKeepsOnlyItsOwnFacts reads a namespace in which the kernel and other plugins have left their traces.
func TestPodKeepsOnlyItsOwnFacts(t *testing.T) {
	got := PodOf(parse(t, `
link lo mac 00:00:00:00:00:00
link eth0 mac 02:00:00:00:00:01 mtu 1500
link net1 mac 02:00:00:00:00:02 mtu 9000
link veth0 mac 02:00:00:00:00:03
addr 127.0.0.1/8 dev lo
addr 10.0.0.2/24 dev eth0
addr 2001:db8::5/64 dev eth0 learned
addr 10.0.1.2/24 dev net1
addr fd01::2/64 dev net1
addr 169.254.200.1/32 dev veth0
route 0.0.0.0/0 via 10.0.1.1 dev net1 proto 83
route 0.0.0.0/0 via 10.0.0.1 dev eth0 metric 50
route 0.0.0.0/0 via 10.0.1.9 dev net1 metric 60
route 0.0.0.0/0 via 10.0.1.1 dev net1 table 101 proto 83
route 0.0.0.0/0 via 169.254.0.1 dev veth0 metric 70
route ::/0 via fd01::1 dev net1 table 101 proto 83
route ::/0 via fe80::9 dev eth0 proto 9
route 10.9.0.0/16 via 10.0.0.9 dev eth0 proto 3
route 10.9.1.0/24 via 10.0.0.9 dev eth0 table 100 proto 3
route 10.9.2.0/24 via 169.254.0.1 dev veth0 proto 3
route 10.96.0.0/16 via 169.254.0.1 dev veth0 proto 83
rule ip 2000 from 10.0.0.2/32 lookup 100 proto 83
rule ip 2000 from 10.0.1.2/32 lookup 300
rule ip 2000 from 10.0.1.2/24 lookup 301 proto 83
rule ip 2000 from 192.0.2.1/32 lookup 302 proto 83
rule ip6 2000 from fd01::2/128 lookup 101 proto 83
`), "net1")
	want := Pod{
		NICs: []NIC{
			{Name: "net1", MAC: mac("02:00:00:00:00:02"), MTU: 9000, Addrs: pfx("10.0.1.2/24", "fd01::2/64"), Gateways: ips("10.0.1.1", "fd01::1"), Table: 101},
			{Name: "eth0", MAC: mac("02:00:00:00:00:01"), MTU: 1500, Addrs: pfx("10.0.0.2/24"), Gateways: ips("10.0.0.1"),
				Routes: []inet.Route{{Dst: pfx("10.9.0.0/16")[0], Via: ips("10.0.0.9")[0]}}, Table: 100},
		},
		Veth:     true,
		Defaults: map[inet.Family][]string{inet.IPv4: {"net1", "eth0"}},
		Managed:  []Route{{Dst: pfx("10.96.0.0/16")[0], Via: ips("169.254.0.1")[0], Dev: "veth0", Proto: Protocol}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestInterfacesSortByNumber(t *testing.T) {
	names := []string{"net10", "eth0", "net2", "b", "net1", "a"}
	slices.SortFunc(names, compareNames)
	if want := []string{"a", "b", "eth0", "net1", "net2", "net10"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestFirstGatewayOfFamilyStays(t *testing.T) {
	var nic NIC
	for _, gw := range ips("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2") {
		nic.AddGateway(gw)
	}
	if want := ips("10.0.0.1", "fd00::1"); !slices.Equal(nic.Gateways, want) {
		t.Errorf("got %v, want %v", nic.Gateways, want)
	}
}
