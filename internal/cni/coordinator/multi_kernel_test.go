//go:build kernel

package coordinator

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// plant is a node on two networks, a router between them and a third one with a
// client, a peer on each of the node's networks, and a pod.
type plant struct {
	node, router, client, peer0, peer1 *linuxtest.Machine
	pod                                *sandbox
	kind, def                          string // for the report
}

var (
	net0, gw0 = []string{"172.31.28.17/20", "2406:da1e:c4:ed01::a/64"}, []string{"172.31.16.1", "2406:da1e:c4:ed01::1"}
	net1, gw1 = []string{"10.20.0.17/24", "fd20::17/64"}, []string{"10.20.0.1", "fd20::1"}
	clients   = []string{"192.0.2.9", "2001:db8::9"}
	peers0    = []string{"172.31.16.50", "2406:da1e:c4:ed01::50"}
	peers1    = []string{"10.20.0.50", "fd20::50"}
	nodes     = []string{"172.31.22.228", "2406:da1e:c4:ed01::10"}
)

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{
		node: linuxtest.NewMachine(t, "node"), router: linuxtest.NewMachine(t, "router"), client: linuxtest.NewMachine(t, "client"),
		peer0: linuxtest.NewMachine(t, "peer0"), peer1: linuxtest.NewMachine(t, "peer1"),
	}
	for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		p.router.Sysctl(path, "1")
	}
	for i, peer := range []*linuxtest.Machine{p.peer0, p.peer1} {
		bridge, nic := []string{"br0", "br1"}[i], []string{"ens5", "ens6"}[i]
		p.router.Bridge(bridge)
		linuxtest.Wire(p.router, "to-"+nic, p.node, nic)
		linuxtest.Wire(p.router, "to-"+peer.Name, peer, "eth0")
		p.router.Enslave("to-"+nic, bridge)
		p.router.Enslave("to-"+peer.Name, bridge)
	}
	p.router.Addr("br0", "172.31.16.1/20", "2406:da1e:c4:ed01::1/64")
	p.router.Addr("br1", "10.20.0.1/24", "fd20::1/64")
	p.peer0.Addr("eth0", "172.31.16.50/20", "2406:da1e:c4:ed01::50/64")
	p.peer1.Addr("eth0", "10.20.0.50/24", "fd20::50/64")
	p.node.Addr("ens5", "172.31.22.228/20", "2406:da1e:c4:ed01::10/64")
	linuxtest.Wire(p.router, "to-client", p.client, "eth0")
	p.router.Addr("to-client", "192.0.2.1/24", "2001:db8::1/64")
	p.client.Addr("eth0", "192.0.2.9/24", "2001:db8::9/64")
	for i := range clients {
		p.client.Route("default", []string{"192.0.2.1", "2001:db8::1"}[i], "eth0")
		p.node.Route("default", gw0[i], "ens5")
		p.peer0.Route("default", gw0[i], "eth0")
		p.peer1.Route("default", gw1[i], "eth0")
	}
	p.pod = newSandbox(t, p.node, "pod", fakeAgent(t, guideReply()))
	p.pod.version = "1.0.0"
	for _, m := range []*linuxtest.Machine{p.node, p.client, p.peer0, p.peer1, p.pod.Machine} {
		m.Serve(8080)
	}
	return p
}

// ipPackets matches IP packets from or to addr, but for ICMPv6: neighbor discovery
// is not part of what is asked.
func ipPackets(addr string) func([]byte) bool {
	a := netip.MustParseAddr(addr)
	return func(f []byte) bool {
		switch {
		case len(f) >= 34 && binary.BigEndian.Uint16(f[12:]) == 0x0800 && a.Is4():
			return netip.AddrFrom4([4]byte(f[26:30])) == a || netip.AddrFrom4([4]byte(f[30:34])) == a
		case len(f) >= 54 && binary.BigEndian.Uint16(f[12:]) == 0x86dd && a.Is6() && f[20] != unix.IPPROTO_ICMPV6:
			return netip.AddrFrom16([16]byte(f[22:38])) == a || netip.AddrFrom16([16]byte(f[38:54])) == a
		}
		return false
	}
}

// walk asks along a path and wants all its packets, in both directions, on one
// interface of the pod and none on the others.
type walk struct {
	name   string
	from   *linuxtest.Machine
	to     string
	port   int
	expect string // who answers, and the source that it sees
	far    string // the address whose packets are looked for
	on     string // the pod's interface that carries them
	others []string
}

func (p *plant) walk(t *testing.T, walks []walk) {
	t.Helper()
	for _, w := range walks {
		for _, proto := range []string{"tcp", "udp"} {
			family := "ip"
			if netip.MustParseAddr(w.to).Is6() {
				family = "ip6"
			}
			t.Run(family+"/"+proto+"/"+w.name, func(t *testing.T) {
				on := p.pod.Capture(w.on, ipPackets(w.far))
				var others []func() int
				for _, o := range w.others {
					others = append(others, p.pod.Capture(o, ipPackets(w.far)))
				}
				defer func() { measure(t, "", p.kind, "default route "+p.def, family, proto, w.name) }()
				got, err := w.from.Ask(proto, hostPort(w.to, w.port), askTimeout)
				if err != nil || got != w.expect {
					t.Errorf("got %q, %v; want %q", got, err, w.expect)
				}
				if n := on(); n < 2 {
					t.Errorf("%d packets of %s on %s, want those of both directions", n, w.far, w.on)
				}
				for i, stop := range others {
					if n := stop(); n != 0 {
						t.Errorf("%d packets of %s strayed to %s", n, w.far, w.others[i])
					}
				}
			})
		}
	}
}

// TestUnderlayInterfacesAnswerWhereAsked attaches eth0 and net1
// of two subnets.
func TestUnderlayInterfacesAnswerWhereAsked(t *testing.T) {
	eachKind(t, severalInterfaces)
}

func severalInterfaces(t *testing.T, kind string) {
	for _, def := range []string{"", "net1"} {
		t.Run("default="+def, func(t *testing.T) {
			p := newPlant(t)
			p.kind, p.def = "two "+kind, cmp.Or(def, "eth0")
			conf := m{"podDefaultRouteNic": def}
			p.pod.attach(kind, "ens5", "eth0", net0, gw0)
			p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), conf)
			p.pod.attach(kind, "ens6", "net1", net1, gw1)
			p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), conf)
			p.pod.must("CHECK", "eth0", p.pod.result("eth0", net0, gw0), conf)
			p.pod.must("CHECK", "net1", p.pod.result("net1", net1, gw1), conf)
			for i, family := range []string{"ip", "ip6"} {
				vip := []string{"10.96.0.1", "fd00:10:96::1"}[i]
				a0, a1 := bare(net0[i]), bare(net1[i])
				loadServices(t, p.node, family, clusterService{ip: vip, port: 80, backend: peers0[i]},
					clusterService{ip: nodes[i], port: 30080, backend: a0}, clusterService{ip: nodes[i], port: 30081, backend: a1})
				out, src, other := "eth0", a0, "net1"
				if def == "net1" {
					out, src, other = "net1", a1, "eth0"
				}
				p.walk(t, []walk{
					{"client to eth0", p.client, a0, 8080, "pod " + clients[i], clients[i], "eth0", []string{"net1", "veth0"}},
					{"client to net1", p.client, a1, 8080, "pod " + clients[i], clients[i], "net1", []string{"eth0", "veth0"}},
					{"peer of eth0 to net1", p.peer0, a1, 8080, "pod " + peers0[i], peers0[i], "net1", []string{"eth0", "veth0"}},
					{"peer of net1 to eth0", p.peer1, a0, 8080, "pod " + peers1[i], peers1[i], "eth0", []string{"net1", "veth0"}},
					{"pod to peer of eth0", p.pod.Machine, peers0[i], 8080, "peer0 " + a0, peers0[i], "eth0", []string{"net1", "veth0"}},
					{"pod to peer of net1", p.pod.Machine, peers1[i], 8080, "peer1 " + a1, peers1[i], "net1", []string{"eth0", "veth0"}},
					{"pod to client by the default route", p.pod.Machine, clients[i], 8080, "client " + src, clients[i], out, []string{other, "veth0"}},
					{"node to eth0", p.node, a0, 8080, "pod " + nodes[i], nodes[i], "veth0", []string{"eth0", "net1"}},
					{"node to net1", p.node, a1, 8080, "pod " + nodes[i], nodes[i], "veth0", []string{"eth0", "net1"}},
					{"pod to node", p.pod.Machine, nodes[i], 8080, "node " + a0, nodes[i], "veth0", []string{"eth0", "net1"}},
					{"pod to ClusterIP", p.pod.Machine, vip, 80, "peer0 " + nodes[i], vip, "veth0", []string{"eth0", "net1"}},
					{"client to NodePort of policy Local, eth0", p.client, nodes[i], 30080, "pod " + clients[i], clients[i], "veth0", []string{"eth0", "net1"}},
					{"client to NodePort of policy Local, net1", p.client, nodes[i], 30081, "pod " + clients[i], clients[i], "veth0", []string{"eth0", "net1"}},
				})
			}
		})
	}
}

func TestDetachedInterfaceIsForgotten(t *testing.T) {
	p := newPlant(t)
	p.pod.attach("macvlan", "ens5", "eth0", net0, gw0)
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), nil)
	onNode := stateOf(t, p.node)
	p.pod.attach("macvlan", "ens6", "net1", net1, gw1)
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), nil)
	p.pod.must("DEL", "net1", nil, nil)
	if now := stateOf(t, p.node); now != onNode {
		t.Errorf("the node before:\n%s\nand after:\n%s", onNode, now)
	}
	for line := range strings.Lines(stateOf(t, p.pod.Machine)) {
		if strings.Contains(line, "proto 83") && (strings.Contains(line, "dev net1") || strings.Contains(line, "10.20.0.17/32") || strings.Contains(line, "fd20::17/128")) {
			t.Errorf("the pod still has %s", line)
		}
	}
	for i := range nodes {
		if _, err := p.node.Ask("tcp", hostPort(bare(net0[i]), 8080), askTimeout); err != nil {
			t.Errorf("node to eth0: %v", err)
		}
	}
}

// TestPolicyRoutesGoIntoEveryTable has a network behind a gateway on eth0's
// link, whichever interface the pod sends from.
func TestPolicyRoutesGoIntoEveryTable(t *testing.T) {
	p := newPlant(t)
	conf := m{"policyRoutes": []m{{"dst": "198.51.100.0/24", "gw": peers0[0]}, {"dst": "2001:db8:ffff::/48", "gw": peers0[1]}}}
	p.pod.attach("macvlan", "ens5", "eth0", net0, gw0)
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), conf)
	p.pod.attach("macvlan", "ens6", "net1", net1, gw1)
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), conf)
	text := stateOf(t, p.pod.Machine)
	for _, dst := range []string{"198.51.100.0/24 via 172.31.16.50 dev eth0", "2001:db8:ffff::/48 via 2406:da1e:c4:ed01::50 dev eth0"} {
		for _, table := range []string{" proto 83", " table 100 proto 83", " table 101 proto 83"} {
			if !strings.Contains(text, "route "+dst+table+"\n") {
				t.Errorf("no route %s%s in\n%s", dst, table, text)
			}
		}
	}
}

// TestOverlayAndUnderlayTogether has eth0 of a bridge plugin as the overlay and
// net1 on the underlay, in the node's own subnet.
func TestOverlayAndUnderlayTogether(t *testing.T) {
	eachKind(t, overlayAndUnderlay)
}

func overlayAndUnderlay(t *testing.T, kind string) {
	pod0, bridge := []string{"10.244.0.5/24", "fd00:244::5/64"}, []string{"10.244.0.1", "fd00:244::1"}
	for _, def := range []string{"", "net1"} {
		t.Run("default="+def, func(t *testing.T) {
			p := newPlant(t)
			p.kind, p.def = "overlay and "+kind, cmp.Or(def, "eth0")
			p.node.Bridge("cni0")
			p.node.Addr("cni0", "10.244.0.1/24", "fd00:244::1/64")
			linuxtest.Wire(p.node, "veth-a", p.pod.Machine, "eth0")
			p.node.Enslave("veth-a", "cni0")
			p.pod.Addr("eth0", pod0...)
			neighbor := linuxtest.NewMachine(t, "neighbor")
			linuxtest.Wire(p.node, "veth-b", neighbor, "eth0")
			p.node.Enslave("veth-b", "cni0")
			neighbor.Addr("eth0", "10.244.0.6/24", "fd00:244::6/64")
			neighbor.Serve(8080)
			for _, gw := range bridge {
				p.pod.Route("default", gw, "eth0")
				neighbor.Route("default", gw, "eth0")
			}
			conf := m{"podDefaultRouteNic": def, "overlayPodCIDR": []string{"10.244.0.0/16", "fd00:244::/48"}}
			p.pod.attach(kind, "ens5", "net1", net0, gw0)
			p.pod.must("ADD", "net1", p.pod.result("net1", net0, gw0), conf)
			p.pod.must("CHECK", "net1", p.pod.result("net1", net0, gw0), conf)
			for i, family := range []string{"ip", "ip6"} {
				vip := []string{"10.96.0.1", "fd00:10:96::1"}[i]
				other := []string{"10.244.0.6", "fd00:244::6"}[i]
				loadServices(t, p.node, family, clusterService{ip: vip, port: 80, backend: nodes[i]})
				a0, a1 := bare(pod0[i]), bare(net0[i])
				walks := []walk{
					{"client to net1", p.client, a1, 8080, "pod " + clients[i], clients[i], "net1", []string{"eth0"}},
					{"underlay peer to net1", p.peer0, a1, 8080, "pod " + peers0[i], peers0[i], "net1", []string{"eth0"}},
					{"pod to underlay peer", p.pod.Machine, peers0[i], 8080, "peer0 " + a1, peers0[i], "net1", []string{"eth0"}},
					{"node to net1", p.node, a1, 8080, "pod " + nodes[i], nodes[i], "eth0", []string{"net1"}},
					{"node to eth0", p.node, a0, 8080, "pod " + bridge[i], bridge[i], "eth0", []string{"net1"}},
					{"pod to node", p.pod.Machine, nodes[i], 8080, "node " + a0, nodes[i], "eth0", []string{"net1"}},
					{"pod to overlay pod", p.pod.Machine, other, 8080, "neighbor " + a0, other, "eth0", []string{"net1"}},
					{"pod to ClusterIP", p.pod.Machine, vip, 80, "node " + a0, vip, "eth0", []string{"net1"}},
				}
				if def == "net1" {
					walks = append(walks, walk{"pod to client by the default route", p.pod.Machine, clients[i], 8080, "client " + a1, clients[i], "net1", []string{"eth0"}})
				}
				p.walk(t, walks)
			}
			p.pod.must("DEL", "net1", nil, nil)
			if text := stateOf(t, p.node); strings.Contains(text, bare(net0[0])+"/32") || strings.Contains(text, "neighbor "+bare(net0[1])) {
				t.Errorf("DEL left:\n%s", text)
			}
		})
	}
}
