package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/test/sim"
)

// scenario is one kind of load.
type scenario struct {
	name  string
	about string
	// pools returns the pools for n pods on the nodes.
	pools func(nodes, n int) []sim.Pool
	// sequential creates one pod at a time in the whole cluster.
	sequential bool
	// again measures the deletion of all pods and the creation of as many on other nodes.
	again bool
	// leases is the number of addresses already in use at the start.
	leases int
}

// The ranges of the scenarios' pools. A node's own pool is the subnet with its number.
const (
	sharedIPv4 = "10.200.0.0/16"
	sharedIPv6 = "fd00:200::/64"
)

// sequentialPods limits the pods of sequential scenarios: more of them take time
// without changing the result.
const sequentialPods = 200

var scenarios = []scenario{
	{name: "A", about: "one shared pool with as many addresses as pods", pools: shared(1)},
	{name: "B", about: "one shared pool with four times as many addresses as pods", pools: shared(4)},
	{name: "C", about: "one pool per node, with as many addresses as its pods", pools: perNode},
	{name: "D", about: "B with dual stack", pools: dualStack},
	{name: "E", about: "one pod at a time", pools: perNode, sequential: true},
	{name: "F", about: "the full pool of A: delete all pods and create them again on other nodes", pools: shared(1), again: true},
	{name: "G", about: "E in a shared pool with 60,000 leases", pools: large, sequential: true, leases: 60_000},
	{name: "H", about: "G without the leases", pools: large, sequential: true},
}

func scenariosNamed(names string) ([]scenario, error) {
	var picked []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--scenarios: %q is none of A to %s", name, scenarios[len(scenarios)-1].name)
		}
		picked = append(picked, scenarios[i])
	}
	return picked, nil
}

// addresses returns the number of addresses of one pod.
func (s scenario) addresses() int {
	versions := map[int]bool{}
	for _, p := range s.pools(1, 1) {
		versions[p.Version] = true
	}
	return len(versions)
}

func shared(times int) func(nodes, n int) []sim.Pool {
	return func(_, n int) []sim.Pool { return []sim.Pool{pool("shared-v4", "", sharedIPv4, times*n)} }
}

func dualStack(_, n int) []sim.Pool {
	return []sim.Pool{pool("shared-v4", "", sharedIPv4, 4*n), pool("shared-v6", "", sharedIPv6, 4*n)}
}

func perNode(nodes, n int) []sim.Pool {
	var pools []sim.Pool
	for i := range nodes {
		node := sim.NodeName(i)
		pools = append(pools, pool(node, node, fmt.Sprintf("10.%d.0.0/16", 201+i), (n+nodes-1)/nodes))
	}
	return pools
}

// large is the maximum of a /16: 60,000 leases and room for more.
func large(_, _ int) []sim.Pool { return []sim.Pool{pool("shared-v4", "", sharedIPv4, 64_000)} }

// pool returns a pool of n addresses, starting at the 17th of the subnet.
func pool(name, node, subnet string, n int) sim.Pool {
	prefix := netip.MustParsePrefix(subnet)
	first := nth(prefix.Addr(), 16)
	version := 4
	if first.Is6() {
		version = 6
	}
	return sim.Pool{Name: name, Version: version, Subnet: subnet, First: first.String(), Last: nth(first, n-1).String(), Node: node}
}

// nth returns the address n positions after base.
func nth(base netip.Addr, n int) netip.Addr {
	raw := base.AsSlice()
	for i := len(raw) - 1; i >= 0 && n > 0; i-- {
		n += int(raw[i])
		raw[i] = byte(n)
		n >>= 8
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
