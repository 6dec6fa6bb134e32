//go:build kernel

package vpc

import (
	"net/netip"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// assign gives the first ENI of a node further ranges beside its addresses.
func assign(t *testing.T, topo *topology.Topology, node string, ranges ...string) {
	t.Helper()
	host, _ := topo.Host(node)
	var all []netip.Prefix
	for _, addr := range host.Interfaces[0].Addresses() {
		all = append(all, single(addr))
	}
	for _, r := range ranges {
		all = append(all, netip.MustParsePrefix(r))
	}
	if err := Assign(t.Context(), topo, map[string][]netip.Prefix{host.Interfaces[0].MAC.String(): all}); err != nil {
		t.Fatal(err)
	}
}

// reaches checks whether an address gets an answer. A host that asked in vain before still fails for up to 3 s: for that
// time it waits for an answer to its ARP requests.
func reaches(t *testing.T, namespace, from, to string, want bool) {
	t.Helper()
	if !want {
		if _, err := ask(namespace, from, to, notAnswered); err == nil {
			t.Errorf("%s reaches %s from %s", namespace, to, from)
		}
		return
	}
	var err error
	for start := time.Now(); time.Since(start) < 2*answered; {
		if _, err = ask(namespace, from, to, answered); err == nil {
			return
		}
	}
	t.Errorf("%s does not reach %s from %s: %v", namespace, to, from, err)
}

func TestAssignedPrefixIsRoutedUnassignedDropped(t *testing.T) {
	topo := up(t, "aws", 3)
	const news4, news6 = "172.31.32.196", "2406:da1e:c4:ed02:aaaa::5"
	addPodAddress(t, worker1, worker1PodIPv4, worker1PodIPv6, news4, news6)
	listen(t, worker1)
	listen(t, worker2)
	// worker2 is in the subnet of worker1, so it needs an ARP or NDP answer for the address.
	reach := func(addr string, want bool) {
		t.Helper()
		for _, from := range []struct{ namespace, ipv4, ipv6 string }{{master, masterIPv4, masterIPv6}, {worker2, worker2IPv4, worker2IPv6}} {
			source, back := from.ipv4, worker2IPv4
			if netip.MustParseAddr(addr).Is6() {
				source, back = from.ipv6, worker2IPv6
			}
			reaches(t, from.namespace, source, addr, want)
			reaches(t, worker1, addr, back, want)
		}
	}
	reach(news4, false)
	reach(news6, false)
	assign(t, topo, "worker1", "172.31.32.176/28", "172.31.32.192/28", "2406:da1e:c4:ed02:7a2e::/80", "2406:da1e:c4:ed02:aaaa::/80")
	reach(news4, true)
	reach(news6, true)
	reach(worker1PodIPv4, true)
	assign(t, topo, "worker1", "172.31.32.192/28", "2406:da1e:c4:ed02:7a2e::/80")
	reach(worker1PodIPv4, false)
	reach(worker1PodIPv6, true)
	reach(news6, false)
	reach(news4, true)
}

func TestENIWithoutRangesIsCutOff(t *testing.T) {
	topo := up(t, "aws", 2)
	listen(t, worker1)
	host, _ := topo.Host("worker1")
	if err := Assign(t.Context(), topo, map[string][]netip.Prefix{host.Interfaces[0].MAC.String(): nil}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(master, masterIPv4, worker1IPv4, notAnswered); err == nil {
		t.Error("worker1 is reachable")
	}
	assign(t, topo, "worker1")
	if _, err := ask(master, masterIPv4, worker1IPv4, answered); err != nil {
		t.Error(err)
	}
}
