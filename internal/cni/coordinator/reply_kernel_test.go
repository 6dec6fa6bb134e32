//go:build kernel

package coordinator

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// newBackend is a plant with a pod behind a NodePort of policy Local. Port 30080 leads to
// its server.
func newBackend(t *testing.T, conf m) *plant {
	t.Helper()
	p := newPlant(t)
	p.pod.attach("macvlan", "ens5", "eth0", net0, gw0)
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), conf)
	for i, family := range []string{"ip", "ip6"} {
		loadServices(t, p.node, family, clusterService{ip: nodes[i], port: 30080, backend: bare(net0[i])},
			clusterService{ip: []string{"10.96.0.1", "fd00:10:96::1"}[i], port: 80, backend: peers0[i]})
	}
	return p
}

// seenByPod has the client ask the pod through the NodePort.
func (p *plant) seenByPod(t *testing.T, sources []string) {
	t.Helper()
	for i, node := range nodes {
		for _, proto := range []string{"tcp", "udp"} {
			if got, err := p.client.Ask(proto, hostPort(node, 30080), askTimeout); err != nil || got != "pod "+sources[i] {
				t.Errorf("%s to %s: got %q, %v; want %q", proto, node, got, err, "pod "+sources[i])
			}
		}
	}
}

// makeOld takes from a pod what releases without a reply mark did not make.
func (s *sandbox) makeOld() {
	s.node.Must("", "ip", "link", "set", "spv"+s.id[:12], "group", "0")
	for _, family := range [][2]string{{"-4", "ip"}, {"-6", "ip6"}} {
		s.Must("", "ip", family[0], "rule", "del", "priority", "1500")
		s.Must("", "ip", family[0], "route", "flush", "table", "99")
		s.Must("", "nft", "delete", "table", family[1], "spiderpool")
	}
	for _, path := range []string{"net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"} {
		s.Sysctl(path, "0")
	}
}

func TestOldPodStaysMasqueraded(t *testing.T) {
	p := newBackend(t, nil)
	p.seenByPod(t, clients)
	p.pod.makeOld()
	p.seenByPod(t, nodes)
	p.pod.must("CHECK", "eth0", p.pod.result("eth0", net0, gw0), nil)
	p.pod.attach("macvlan", "ens6", "net1", net1, gw1)
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), nil)
	p.pod.must("CHECK", "net1", p.pod.result("net1", net1, gw1), nil)
	if text := stateOf(t, p.pod.Machine); strings.Contains(text, "fwmark") {
		t.Errorf("the second attachment made a rule for the mark:\n%s", text)
	}
	p.seenByPod(t, nodes)
}

func TestLateFamilyGetsReplyMark(t *testing.T) {
	p := newPlant(t)
	p.pod.attach("macvlan", "ens5", "eth0", net0[:1], gw0[:1])
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0[:1], gw0[:1]), nil)
	p.pod.attach("macvlan", "ens6", "net1", net1[1:], gw1[1:])
	p.pod.must("ADD", "net1", p.pod.result("net1", net1[1:], gw1[1:]), nil)
	loadServices(t, p.node, "ip", clusterService{ip: nodes[0], port: 30080, backend: bare(net0[0])})
	loadServices(t, p.node, "ip6", clusterService{ip: nodes[1], port: 30080, backend: bare(net1[1])})
	p.seenByPod(t, clients)
}

func TestPodFilterLetsClientsIn(t *testing.T) {
	for _, filter := range []int{1, 2} {
		newBackend(t, m{"podRPFilter": filter}).seenByPod(t, clients)
	}
}

// TestProxyMarkLeavesConnectionsAlone has a transparent proxy in the pod, which marks the
// packets of clients and routes the mark to itself.
func TestProxyMarkLeavesConnectionsAlone(t *testing.T) {
	p := newBackend(t, nil)
	p.pod.Must(`table inet mesh {
  chain prerouting { type filter hook prerouting priority mangle; iifname != "lo" meta l4proto tcp meta mark set 1337; }
}
`, "nft", "-f", "-")
	for _, family := range []string{"-4", "-6"} {
		p.pod.Must("", "ip", family, "rule", "add", "fwmark", "1337", "lookup", "133")
		p.pod.Must("", "ip", family, "route", "add", "local", "default", "dev", "lo", "table", "133")
	}
	for i := range nodes {
		if got, err := p.client.Ask("tcp", hostPort(bare(net0[i]), 8080), askTimeout); err != nil || got != "pod "+clients[i] {
			t.Errorf("client to pod: got %q, %v", got, err)
		}
	}
	p.seenByPod(t, clients)
}

func TestClosedPortRefusesThroughNode(t *testing.T) {
	p := newPlant(t)
	silent := newSandbox(t, p.node, "silent", p.pod.socket)
	silent.attach("macvlan", "ens5", "eth0", net0, gw0)
	silent.must("ADD", "eth0", silent.result("eth0", net0, gw0), nil)
	for i, family := range []string{"ip", "ip6"} {
		loadServices(t, p.node, family, clusterService{ip: nodes[i], port: 30080, backend: bare(net0[i])})
		for _, proto := range []string{"tcp", "udp"} {
			if _, err := p.client.Ask(proto, hostPort(nodes[i], 30080), askTimeout); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s %s: got %v, want a refusal", family, proto, err)
			}
		}
	}
}

// TestAnswersOfServicesTakeNoEntry: the set of UDP flows is for clients only.
func TestAnswersOfServicesTakeNoEntry(t *testing.T) {
	p := newBackend(t, nil)
	flows := func(family string) int {
		return strings.Count(p.pod.Must("", "nft", "list", "set", family, "spiderpool", "flows"), "expires")
	}
	for i, family := range []string{"ip", "ip6"} {
		vip := []string{"10.96.0.1", "fd00:10:96::1"}[i]
		for _, to := range []string{hostPort(vip, 80), hostPort(nodes[i], 8080)} {
			if _, err := p.pod.Ask("udp", to, askTimeout); err != nil {
				t.Errorf("pod to %s: %v", to, err)
			}
		}
		if _, err := p.node.Ask("udp", hostPort(bare(net0[i]), 8080), askTimeout); err != nil {
			t.Errorf("node to pod: %v", err)
		}
		if n := flows(family); n != 0 {
			t.Errorf("%s: %d flows, want none", family, n)
		}
		if _, err := p.client.Ask("udp", hostPort(nodes[i], 30080), askTimeout); err != nil {
			t.Error(err)
		}
		if n := flows(family); n != 1 {
			t.Errorf("%s: %d flows of one client", family, n)
		}
	}
}

// TestPodForwardsWhatNodeSends has a pod that is a router: the mark must not route what
// the pod only forwards.
func TestPodForwardsWhatNodeSends(t *testing.T) {
	p := newBackend(t, nil)
	behind := linuxtest.NewMachine(t, "behind")
	linuxtest.Wire(p.pod.Machine, "lan", behind, "eth0")
	p.pod.Sysctl("net/ipv4/ip_forward", "1")
	p.pod.Addr("lan", "192.168.7.1/24")
	behind.Addr("eth0", "192.168.7.2/24")
	behind.Route("default", "192.168.7.1", "eth0")
	behind.Serve(8080)
	p.node.Must("", "ip", "route", "add", "192.168.7.0/24", "dev", "spv"+p.pod.id[:12])
	p.node.Must("", "ip", "neigh", "add", "192.168.7.2", "lladdr", p.pod.Link("veth0").Attrs().HardwareAddr.String(), "dev", "spv"+p.pod.id[:12])
	if got, err := p.node.Ask("tcp", "192.168.7.2:8080", askTimeout); err != nil || got != "behind "+nodes[0] {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCheckNamesMissingReplyMark(t *testing.T) {
	_, pod := lone(t, guideReply())
	result := pod.result("eth0", guide.a, guide.gateways)
	pod.must("ADD", "eth0", result, nil)
	pod.Must("", "nft", "delete", "table", "ip6", "spiderpool")
	pod.Must("", "ip", "rule", "del", "priority", "1500")
	out, err := pod.call("CHECK", "eth0", result, nil)
	for _, want := range []string{"pod: + replymark ip6 dev veth0 mark 0x40000000", "pod: + rule ip 1500 from all fwmark 0x40000000 lookup 99"} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, want %q in\n%s", err, want, out)
		}
	}
	pod.must("ADD", "eth0", result, nil)
	pod.must("CHECK", "eth0", result, nil)
}
