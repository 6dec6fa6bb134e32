//go:build kernel

package vpc

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// further is an ENI in the subnet pods-b.
func further(t *testing.T, ipv4, mac string) topology.Interface {
	t.Helper()
	i := topology.Interface{Name: "ens6", IPv4: netip.MustParseAddr(ipv4)}
	if err := i.MAC.UnmarshalText([]byte(mac)); err != nil {
		t.Fatal(err)
	}
	return i
}

// attachRanges attaches ENIs, and assigns ranges to each beside its address.
func attachRanges(t *testing.T, topo *topology.Topology, wanted map[string][]topology.Interface, ranges map[string][]string) {
	t.Helper()
	if err := Attach(topo, wanted); err != nil {
		t.Fatal(err)
	}
	assigned := map[string][]netip.Prefix{}
	for _, list := range wanted {
		for _, i := range list {
			all := []netip.Prefix{single(i.IPv4)}
			for _, r := range ranges[i.MAC.String()] {
				all = append(all, netip.MustParsePrefix(r))
			}
			assigned[i.MAC.String()] = all
		}
	}
	for _, node := range topo.Nodes { // Assign replaces the source checks of the VPC
		assigned[node.Interfaces[0].MAC.String()] = node.Interfaces[0].Assigned()
	}
	if err := Assign(t.Context(), topo, assigned); err != nil {
		t.Fatal(err)
	}
}

// linkOf returns the link ens6 of a machine.
func linkOf(namespace string) (link netlink.Link, err error) {
	err = (end{namespace: namespace, link: "ens6"}).with(func(_ *netlink.Handle, l netlink.Link) error {
		link = l
		return nil
	})
	return link, err
}

// usePodAddress sets ens6 up, and gives it an address of a pod. Packets from that address leave there.
func usePodAddress(t *testing.T, namespace, gateway, addr string) {
	t.Helper()
	family := "-4"
	if netip.MustParseAddr(addr).Is6() {
		family = "-6"
	}
	for _, command := range []string{
		"ip link set ens6 up",
		"ip " + family + " route replace default via " + gateway + " dev ens6 onlink table 77",
		"ip " + family + " rule add from " + addr + " lookup 77",
	} {
		if _, err := netns.Run(t.Context(), namespace, "", strings.Fields(command)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := (end{namespace: namespace, link: "ens6"}).setAddresses(single(netip.MustParseAddr(addr))); err != nil {
		t.Fatal(err)
	}
}

func TestAttachedENIIsRouted(t *testing.T) {
	topo := up(t, "aws", 3)
	const (
		mac1, mac2   = "0a:58:00:00:00:01", "0a:58:00:00:00:02"
		pod1v4       = "172.31.80.17"
		pod1v6       = "2406:da1e:c4:ed04:1::5"
		pod2v4       = "172.31.80.33"
		pod2v6       = "2406:da1e:c4:ed04:2::5"
		gate4, gate6 = "172.31.80.1", "2406:da1e:c4:ed04::1"
	)
	one, two := further(t, "172.31.80.4", mac1), further(t, "172.31.80.5", mac2)
	ranges := map[string][]string{
		mac1: {"172.31.80.16/28", "2406:da1e:c4:ed04:1::/80"},
		mac2: {"172.31.80.32/28", "2406:da1e:c4:ed04:2::/80"},
	}
	attachRanges(t, topo, map[string][]topology.Interface{"worker1": {one}}, ranges)
	link, err := linkOf(worker1)
	if err != nil {
		t.Fatal(err)
	}
	if got := link.Attrs(); got.HardwareAddr.String() != mac1 || got.Flags&net.FlagUp != 0 {
		t.Errorf("ens6 has the MAC address %s and the flags %s, want %s, down", got.HardwareAddr, got.Flags, mac1)
	}
	for _, addr := range []string{pod1v4, pod1v6} {
		gateway := gate4
		if netip.MustParseAddr(addr).Is6() {
			gateway = gate6
		}
		usePodAddress(t, worker1, gateway, addr)
	}
	listen(t, worker1)
	listen(t, master)
	for _, pair := range [][3]string{{masterIPv4, pod1v4, masterIPv4}, {masterIPv6, pod1v6, masterIPv6}} {
		reaches(t, master, pair[0], pair[1], true)
		reaches(t, worker1, pair[1], pair[2], true)
	}

	// The second ENI is in the subnet of the first one, so each needs answers to ARP and NDP for the other.
	attachRanges(t, topo, map[string][]topology.Interface{"worker1": {one}, "worker2": {two}}, ranges)
	if again, err := linkOf(worker1); err != nil || again.Attrs().Index != link.Attrs().Index {
		t.Errorf("the link of worker1 was replaced: %v", err)
	}
	usePodAddress(t, worker2, gate4, pod2v4)
	usePodAddress(t, worker2, gate6, pod2v6)
	reaches(t, worker2, pod2v4, pod1v4, true)
	reaches(t, worker2, pod2v6, pod1v6, true)

	attachRanges(t, topo, map[string][]topology.Interface{"worker2": {two}}, ranges)
	if _, err := linkOf(worker1); err == nil {
		t.Error("worker1 still has ens6")
	}
	if _, err := linkOf(worker2); err != nil {
		t.Error(err)
	}
	reaches(t, worker2, pod2v4, pod1v4, false)
	if rules, err := netns.Run(t.Context(), "splab-vpc-main", "", "ip", "rule"); err != nil || strings.Contains(rules, "detached") {
		t.Errorf("rules of the router: %v\n%s", err, rules)
	}
}

func TestForgedSourceOfAttachedENIIsDropped(t *testing.T) {
	topo := up(t, "aws", 2)
	const mac, assigned, forged, gateway = "0a:58:00:00:00:01", "172.31.80.17", "172.31.80.200", "172.31.80.1"
	attachRanges(t, topo, map[string][]topology.Interface{"worker1": {further(t, "172.31.80.4", mac)}}, map[string][]string{mac: {"172.31.80.16/28"}})
	usePodAddress(t, worker1, gateway, assigned)
	usePodAddress(t, worker1, gateway, forged)
	listen(t, master)
	reaches(t, worker1, assigned, masterIPv4, true)
	reaches(t, worker1, forged, masterIPv4, false)
}
