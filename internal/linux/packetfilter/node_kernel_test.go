//go:build kernel

package packetfilter

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// site is a node with two pods on pairs and a client outside. The node translates 10.96.0.1:80 to pod b, and masquerades
// like the coordinator's rules.
type site struct {
	node, a, b, client *linuxtest.Machine
	filter             *Node
}

const (
	pairA, pairB   = "spv00000000000a", "spv00000000000b"
	addrA, addrB   = "10.6.0.11", "10.6.0.12"
	addrA6, addrB6 = "fd00:6::11", "fd00:6::12"
	serviceAddr    = "10.96.0.1"
)

const siteRules = `
table ip site {
	chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr 10.96.0.1 tcp dport 80 dnat to 10.6.0.12:8080
		ip daddr 192.168.9.1 tcp dport 30080 dnat to 10.6.0.12:8080
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		iifname "spv*" masquerade
		oifname "spv*" ct status dnat masquerade
	}
}
`

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{node: linuxtest.NewMachine(t, "node"), a: linuxtest.NewMachine(t, "a"), b: linuxtest.NewMachine(t, "b"), client: linuxtest.NewMachine(t, "client")}
	linuxtest.Wire(s.node, pairA, s.a, "veth0")
	linuxtest.Wire(s.node, pairB, s.b, "veth0")
	linuxtest.Wire(s.node, "eth0", s.client, "eth0")
	s.node.Sysctl("net/ipv4/ip_forward", "1")
	s.node.Sysctl("net/ipv6/conf/all/forwarding", "1")
	s.node.Addr("eth0", "192.168.9.1/24", "fd00:9::1/64")
	s.client.Addr("eth0", "192.168.9.2/24", "fd00:9::2/64")
	s.client.Route("default", "192.168.9.1", "eth0")
	s.client.Route("default", "fd00:9::1", "eth0")
	for _, pod := range []struct {
		*linuxtest.Machine
		pair, v4, v6, gateway4, gateway6 string
	}{{s.a, pairA, addrA, addrA6, "10.6.1.1", "fd00:61::1"}, {s.b, pairB, addrB, addrB6, "10.6.2.1", "fd00:62::1"}} {
		s.node.Addr(pod.pair, pod.gateway4+"/32", pod.gateway6+"/128")
		pod.Addr("veth0", pod.v4+"/32", pod.v6+"/128")
		defaultRoute(t, pod.Machine, pod.gateway4, "veth0")
		defaultRoute(t, pod.Machine, pod.gateway6, "veth0")
		s.node.Route(pod.v4+"/32", "", pod.pair)
		s.node.Route(pod.v6+"/128", "", pod.pair)
	}
	s.node.Must(siteRules, "nft", "-f", "-")
	for _, m := range []*linuxtest.Machine{s.a, s.b, s.client, s.node} {
		m.Serve(8080)
	}
	ns, err := linux.Open(s.node.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	if s.filter, err = OpenNode(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.filter.Close() })
	return s
}

// defaultRoute adds a route to a gateway outside all networks of the machine.
func defaultRoute(t testing.TB, m *linuxtest.Machine, gateway, dev string) {
	t.Helper()
	_, all, err := net.ParseCIDR(hopOf(gateway, "0.0.0.0/0", "::/0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.NL.RouteAdd(&netlink.Route{LinkIndex: m.Link(dev).Attrs().Index, Dst: all, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		t.Fatal(err)
	}
}

// set isolates both pods on the node.
func (s *site) set(t *testing.T, ingressB, egressA policy.Section) {
	t.Helper()
	a := &policy.Pod{Name: policy.Name{Namespace: "default", Name: "a"}, Addrs: addrsOf([]string{addrA, addrA6}), NodeAddrs: addrsOf([]string{"192.168.9.1", "10.6.1.1", "10.6.2.1"}), Labels: map[string]string{"app": "a"}}
	b := &policy.Pod{Name: policy.Name{Namespace: "default", Name: "b"}, Addrs: addrsOf([]string{addrB, addrB6}), NodeAddrs: a.NodeAddrs, Labels: map[string]string{"app": "b"}}
	policies := []*policy.Policy{
		{Name: policy.Name{Namespace: "default", Name: "b"}, Pods: policy.Selector{{Key: "app", Values: []string{"b"}}}, Ingress: ingressB},
		{Name: policy.Name{Namespace: "default", Name: "a"}, Pods: policy.Selector{{Key: "app", Values: []string{"a"}}}, Egress: egressA},
	}
	c := policy.NewCluster([]policy.Namespace{{Name: "default"}}, []*policy.Pod{a, b}, policies, nil)
	for pair, pod := range map[string]*policy.Pod{pairA: a, pairB: b} {
		f := c.Decide(pod)
		if err := s.filter.Set(pair, Wanted{Interfaces: []Interface{{Name: "eth0", Addrs: pod.Addrs, Always: f.Always, Sets: f.Sets()}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeJudgesForwardedPackets sends through the node, also to a service, whose backend is pod b.
func TestNodeJudgesForwardedPackets(t *testing.T) {
	s := newSite(t)
	const everywhere = "0.0.0.0/0"
	paths := []struct {
		from *linuxtest.Machine
		to   string
	}{
		{s.a, serviceAddr + ":80"}, {s.client, serviceAddr + ":80"}, {s.client, "192.168.9.1:30080"}, {s.node, addrB + ":8080"}, {s.a, "192.168.9.1:8080"},
		{s.a, "192.168.9.2:8080"}, {s.client, "[" + addrB6 + "]:8080"}, {s.a, "[" + addrB6 + "]:8080"}, {s.a, "[fd00:9::2]:8080"},
	}
	for _, it := range []struct {
		name             string
		ingressB, egress policy.Section
		wanted           [9]bool // by path
	}{
		{"open", open, open, [9]bool{true, true, true, true, true, true, true, true, true}},
		{"b is closed", closed, open, [9]bool{false, false, false, true, true, true, false, false, true}},
		{"a is closed", open, closed, [9]bool{false, true, true, true, true, false, true, false, false}},
		{"b allows a behind the translation", allowing(addrA+"/32", service.TCP, 8080), open, [9]bool{true, false, false, true, true, true, false, false, true}},
		{"b allows the port of the service", allowing(everywhere, service.TCP, 80), open, [9]bool{false, false, false, true, true, true, false, false, true}},
		{"b allows the client", allowing("192.168.9.2/32", service.TCP, 8080), open, [9]bool{false, true, true, true, true, true, false, false, true}},
		{"a may reach the backend", open, allowing(addrB+"/32", service.TCP, 8080), [9]bool{true, true, true, true, true, false, true, false, false}},
		{"a may reach the service address only", open, allowing(serviceAddr+"/32", service.TCP, 80), [9]bool{false, true, true, true, true, false, true, false, false}},
		{"both allow", allowing(addrA6+"/128", service.TCP, 8080), allowing(addrB6+"/128", service.TCP, 8080), [9]bool{false, false, false, true, true, false, false, true, false}},
	} {
		s.set(t, it.ingressB, it.egress)
		for i, path := range paths {
			timeout := 300 * time.Millisecond
			if it.wanted[i] {
				timeout = 5 * time.Second
			}
			_, err := path.from.Ask("tcp", path.to, timeout)
			if (err == nil) != it.wanted[i] {
				t.Errorf("%s: from %s to %s: %v, want %v", it.name, path.from.Name, path.to, err, it.wanted[i])
			}
		}
	}
	drops, err := s.filter.Drops()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range drops {
		found[fmt.Sprint(d.Link, " ", d.Interface, " ", d.Direction, " ", d.Packets > 0)] = true
	}
	for _, want := range []string{pairA + " eth0 egress true", pairB + " eth0 ingress true"} {
		if !found[want] {
			t.Errorf("no counter %q in %v", want, drops)
		}
	}
}

// TestIPVSFollowsPolicies translates the service by IPVS, whose packets do not pass the hook forward.
func TestIPVSFollowsPolicies(t *testing.T) {
	s := newSite(t)
	if out, err := s.node.Run("", nil, "ipvsadm", "-Ln"); err != nil {
		t.Skipf("this kernel has no IPVS: %s", out)
	}
	s.node.Must("", "nft", "flush", "chain", "ip", "site", "prerouting")
	s.node.Addr("lo", serviceAddr+"/32")
	s.node.Sysctl("net/ipv4/vs/conntrack", "1")
	s.node.Must("", "ipvsadm", "-A", "-t", serviceAddr+":80", "-s", "rr")
	s.node.Must("", "ipvsadm", "-a", "-t", serviceAddr+":80", "-r", addrB+":8080", "-m")
	for _, it := range []struct {
		name             string
		ingressB, egress policy.Section
		passes           bool
	}{
		{"open", open, open, true},
		{"b is closed", closed, open, false},
		{"a is closed", open, closed, false},
		{"both allow", allowing(addrA+"/32", service.TCP, 8080), allowing(addrB+"/32", service.TCP, 8080), true},
		{"b allows another pod", allowing("10.6.0.99/32", service.TCP, 8080), open, false},
	} {
		s.set(t, it.ingressB, it.egress)
		timeout := 500 * time.Millisecond
		if it.passes {
			timeout = 5 * time.Second
		}
		if _, err := s.a.Ask("tcp", serviceAddr+":80", timeout); (err == nil) != it.passes {
			t.Errorf("%s: %v, want %v", it.name, err, it.passes)
		}
	}
}

// TestNodeJudgesByPodAddress has policies for the second interface of a pod only.
func TestNodeJudgesByPodAddress(t *testing.T) {
	s := newSite(t)
	s.b.Addr("veth0", "10.7.0.12/32")
	s.node.Route("10.7.0.12/32", "", pairB)
	shut := policy.Sets{Ingress: &policy.Allowed{}, Egress: &policy.Allowed{}}
	w := Wanted{Interfaces: []Interface{{Name: "net1", Addrs: []netip.Addr{addrOf("10.7.0.12")}, Sets: shut}}}
	if err := s.filter.Set(pairB, w); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Ask("tcp", addrB+":8080", 5*time.Second); err != nil {
		t.Errorf("the other address: %v", err)
	}
	if _, err := s.client.Ask("tcp", "10.7.0.12:8080", 300*time.Millisecond); err == nil {
		t.Error("the address of the isolated interface is reached")
	}
	if err := s.filter.Set(pairB, Wanted{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Ask("tcp", "10.7.0.12:8080", 5*time.Second); err != nil {
		t.Errorf("after the end of the policy: %v", err)
	}
}

// TestNextAgentAdoptsNode restarts the agent of a node.
func TestNextAgentAdoptsNode(t *testing.T) {
	s := newSite(t)
	s.set(t, closed, open)
	if err := s.filter.Close(); err != nil {
		t.Fatal(err)
	}
	denied := func(when string) {
		t.Helper()
		if _, err := s.client.Ask("tcp", addrB+":8080", 300*time.Millisecond); err == nil {
			t.Errorf("%s, a closed pod is reached", when)
		}
	}
	denied("without an agent")
	ns, err := linux.Open(s.node.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if s.filter, err = OpenNode(ns); err != nil {
		t.Fatal(err)
	}
	if err := s.filter.Set(pairA, Wanted{Interfaces: []Interface{{Name: "eth0", Addrs: []netip.Addr{addrOf(addrA)}, Sets: policy.Sets{Ingress: &policy.Allowed{}}}}}); err != nil {
		t.Fatal(err)
	}
	denied("before the agent knows all pods")
	s.set(t, closed, open)
	if err := s.filter.Adopted(); err != nil {
		t.Fatal(err)
	}
	denied("after that")
	s.set(t, open, open)
	if _, err := s.client.Ask("tcp", addrB+":8080", 5*time.Second); err != nil {
		t.Errorf("an open pod: %v", err)
	}
	if out := s.node.Must("", "nft", "list", "tables"); len(out) > len("table ip site\n") {
		t.Errorf("tables are left: %s", out)
	}
}
