//go:build kernel

package benchservice

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	clientAddr = "10.6.0.2"
	serverAddr = "10.6.0.3"
)

// policyResult are the figures between two pods whose policies allow some peers.
type policyResult struct {
	Name  string
	Peers int
	// rules isolates a pod; nil for none.
	rules  func(b *testing.B, pod *linuxtest.Machine, peers int, peer string)
	Rounds []figures
	Median figures
	// Memory are the bytes of the rules and sets in both pods, those of the kernel's slabs.
	Memory int64
}

// track has the kernel track the connections of a pod, without any policy: the part of the cost that every stateful filter
// has.
func track(b *testing.B, pod *linuxtest.Machine, _ int, _ string) {
	b.Helper()
	pod.Must("table inet t { chain c { type filter hook prerouting priority -150; ct state established accept; }; }", "nft", "-f", "-")
}

// BenchmarkPolicies measures connections between two pods, the client on the first processor and the server on the last
// one. The policy of each allows the port of the server to n peers that do not touch each other, in both directions.
func BenchmarkPolicies(b *testing.B) {
	all := []*policyResult{{Name: "no policy"}, {Name: "conntrack only", rules: track}}
	for _, n := range []int{10, 1000, 10000} {
		all = append(all, &policyResult{Name: fmt.Sprint(n, " peers"), Peers: n, rules: allow})
	}
	var clients []*linuxtest.Machine
	for _, r := range all {
		client, server := linuxtest.NewMachine(b, "client"), linuxtest.NewMachine(b, "server")
		linuxtest.Wire(client, "eth0", server, "eth0")
		client.Addr("eth0", clientAddr+"/24")
		server.Addr("eth0", serverAddr+"/24")
		startServer(b, server)
		before := slabs(b)
		if r.rules != nil {
			r.rules(b, client, r.Peers, serverAddr)
			r.rules(b, server, r.Peers, clientAddr)
		}
		r.Memory = slabs(b) - before
		clients = append(clients, client)
	}
	for round := range *rounds {
		for i, r := range all {
			o := order{Address: netip.MustParseAddr(serverAddr).As4(), Port: serverPort, Duration: time.Duration(*seconds * float64(time.Second))}
			f, err := o.measure(clients[i], "")
			if err != nil {
				b.Fatalf("%s: %v", r.Name, err)
			}
			fmt.Printf("%d/%d  %-15s  %6.2f Gbit/s  %6.1f µs  %6.0f connections/s\n", round+1, *rounds, r.Name, f.Gbit, f.P50, f.Connections)
			r.Rounds = append(r.Rounds, f)
		}
	}
	fmt.Print("\n| policy | TCP Gbit/s | × none | p50 µs | × none | connections/s | × none | KiB per pod |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range all {
		r.Median = median(r.Rounds)
		m, none := r.Median, all[0].Median
		fmt.Printf("| %s | %.2f | %.2f | %.1f | %.2f | %.0f | %.2f | %d |\n", r.Name,
			m.Gbit, m.Gbit/none.Gbit, m.P50, m.P50/none.P50, m.Connections, m.Connections/none.Connections, r.Memory/2/1024)
	}
	fmt.Printf("\nmedians of %d rounds, %g s per figure\n", *rounds, *seconds)
}

// allow isolates a pod in both directions, except for n peers.
func allow(b *testing.B, pod *linuxtest.Machine, n int, peer string) {
	b.Helper()
	addrs := []netip.Addr{netip.MustParseAddr(peer)}
	for i := range n - 1 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, byte(100 + i>>15), byte(i >> 7), byte(2 * i)}))
	}
	segment := policy.Segment{PortRange: policy.PortRange{Protocol: service.TCP, From: serverPort, To: serverPort}, Peers: inet.OfAddrs(addrs...)}
	allowed := &policy.Allowed{Segments: []policy.Segment{segment}}
	ns, err := linux.Open(pod.Path())
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	f, err := packetfilter.Open(ns)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	if err := f.Apply(packetfilter.Wanted{Interfaces: []packetfilter.Interface{{Name: "eth0", Sets: policy.Sets{Ingress: allowed, Egress: allowed}}}}); err != nil {
		b.Fatal(err)
	}
}

// slabs returns the memory of the kernel's slabs in bytes.
func slabs(b *testing.B) int64 {
	b.Helper()
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "Slab:"); ok {
			n, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n * 1024
		}
	}
	b.Fatal("/proc/meminfo has no line Slab")
	return 0
}
