//go:build kernel

package coordinator

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// TestForwardingNodeKeepsLearnedDefaultRoute has a node whose only
// IPv6 default route comes from a router advertisement.
func TestForwardingNodeKeepsLearnedDefaultRoute(t *testing.T) {
	node, router := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "router")
	// The name sorts behind "all".
	linuxtest.Wire(node, "ens5", router, "to-node")
	router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	router.Advertise("to-node", "2001:db8:1::", node)
	pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
	pod.version = "1.0.0"
	pod.attach("macvlan", "ens5", "eth0", guide.a, nil)
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, nil), nil)
	if out := node.Must("", "ip", "-6", "route", "show", "default"); !strings.Contains(out, "proto ra") {
		t.Errorf("the node's default route is gone: %q", out)
	}
	if out := node.Must("", "cat", "/proc/sys/net/ipv6/conf/all/forwarding", "/proc/sys/net/ipv6/conf/ens5/accept_ra",
		"/proc/sys/net/ipv6/conf/default/accept_ra", "/proc/sys/net/ipv6/conf/spv"+pod.id[:12]+"/accept_ra"); out != "1\n2\n1\n0\n" {
		t.Errorf("forwarding, and accept_ra of ens5, default and the pair are %q", out)
	}
}

// TestNothingIsLearnedFromRouterAdvertisements has a router that advertises before
// ADD, as when the main plugin waits for duplicate address detection.
func TestNothingIsLearnedFromRouterAdvertisements(t *testing.T) {
	node, router := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "router")
	linuxtest.Wire(node, "ens5", router, "to-node")
	router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
	pod.version = "1.0.0"
	pod.attach("macvlan", "ens5", "eth0", guide.a, nil)
	node.Sysctl("net/ipv6/conf/ens5/accept_ra", "0") // so that its address is not the network's
	router.Advertise("to-node", "2001:db8:1::", pod.Machine)
	pod.Await("2001:db8:1:", "ip", "-6", "addr", "show", "dev", "eth0")
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, nil), nil)
	pod.must("CHECK", "eth0", pod.result("eth0", guide.a, nil), nil)
	out := pod.Must("", "sh", "-c", "ip -6 addr show dev eth0; ip -6 route; cat /proc/sys/net/ipv6/conf/eth0/accept_ra")
	if strings.Contains(out, "2001:db8:1:") || strings.Contains(out, "proto ra") || !strings.HasSuffix(out, "\n0\n") {
		t.Errorf("the pod has\n%s", out)
	}
	if !strings.Contains(out, bare(guide.a[1])) {
		t.Errorf("the pod's own address is gone:\n%s", out)
	}
}

// TestIPv4PodsNeedNoIPv6Node uses a node with IPv6 disabled for new interfaces.
func TestIPv4PodsNeedNoIPv6Node(t *testing.T) {
	node, other := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "vpc")
	linuxtest.Wire(node, "ens5", other, "x")
	node.Addr("ens5", "172.31.22.228/20")
	pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
	pod.version = "1.0.0"
	pod.attach("macvlan", "ens5", "eth0", guide.a[:1], nil)
	node.Sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	// 1000 bytes are less than IPv6 works on.
	for _, mtu := range []int{1000, 1500} {
		conf := m{"vethMTU": mtu}
		pod.must("ADD", "eth0", pod.result("eth0", guide.a[:1], nil), conf)
		pod.must("CHECK", "eth0", pod.result("eth0", guide.a[:1], nil), conf)
		if out := node.Must("", "cat", "/proc/sys/net/ipv6/conf/all/forwarding"); out != "0\n" {
			t.Errorf("MTU %d: IPv6 forwarding is %q", mtu, out)
		}
		if text := stateOf(t, node); strings.Contains(text, "rule ip6 1000") || strings.Contains(text, "masquerade ip6") {
			t.Errorf("MTU %d: the node has\n%s", mtu, text)
		}
		node.Serve(8000 + mtu)
		if _, err := pod.Ask("tcp", hostPort("172.31.22.228", 8000+mtu), askTimeout); err != nil {
			t.Errorf("MTU %d: pod to node: %v", mtu, err)
		}
		pod.must("DEL", "eth0", nil, nil)
	}
}

func (a *agent) expectConflict(t *testing.T, container, addr, mac string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.conflicts) != 1 || a.conflicts[0].Address != netip.MustParseAddr(addr) || a.conflicts[0].MAC != mac ||
		a.conflicts[0].ContainerID != container || a.conflicts[0].Interface != "eth0" {
		t.Errorf("the agent was told of %+v", a.conflicts)
	}
}

// TestKernelFindsAddressInUse has duplicate address detection switched on,
// as it is on nodes.
func TestKernelFindsAddressInUse(t *testing.T) {
	node, holder := lone(t, guideReply())
	a := newAgent(t, guideReply())
	pod := newSandbox(t, node, "b", a.socket)
	pod.Sysctl("net/ipv6/conf/default/accept_dad", "1")
	pod.Sysctl("net/ipv6/conf/all/accept_dad", "1")
	node.Sub("macvlan", "ens5", pod.Machine, "eth0")
	pod.Must("", "ip", "addr", "add", guide.a[1], "dev", "eth0")
	out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a[1:], nil), nil)
	if err == nil || !strings.Contains(out, `"code": 11`) {
		t.Errorf("got %v\n%s", err, out)
	}
	a.expectConflict(t, pod.id, bare(guide.a[1]), holder.Link("eth0").Attrs().HardwareAddr.String())
}

// TestAddressesSettle waits for duplicate address detection of the global addresses.
// The link-local address may still be tentative.
func TestAddressesSettle(t *testing.T) {
	_, pod := lone(t, guideReply())
	pod.Sysctl("net/ipv6/conf/eth0/accept_dad", "1")
	pod.Sysctl("net/ipv6/conf/all/accept_dad", "1")
	global := []string{"-6", "addr", "show", "dev", "eth0", "scope", "global"}
	pod.Must("", "ip", "addr", "add", "fd99::1/64", "dev", "eth0")
	if out := pod.Must("", "ip", global...); !strings.Contains(out, "tentative") {
		t.Skipf("the kernel did not begin to detect duplicates:\n%s", out)
	}
	ns, err := linux.Open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	began := time.Now()
	if err := ns.SettleAddrs(t.Context(), "eth0"); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if out := pod.Must("", "ip", global...); strings.Contains(out, "tentative") {
		t.Errorf("still tentative:\n%s", out)
	}
	t.Logf("duplicate address detection took %s", took)
}

// TestNodeServesHijackedAddress is the address of the node-local DNS cache.
func TestNodeServesHijackedAddress(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		v := newVPC(t, kind)
		v.master.Addr("lo", "169.254.20.10/32")
		for _, proto := range []string{"tcp", "udp"} {
			t.Run("ip/"+proto, func(t *testing.T) {
				defer func() {
					measure(t, "", kind, "no kube-proxy", "ip", proto, "pod to DNS on its node (hijacked 169.254.20.10)")
				}()
				got, err := v.a.Ask(proto, "169.254.20.10:8080", askTimeout)
				if want := "master " + bare(guide.a[0]); err != nil || got != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			})
		}
	}, "vlan")
}

// TestGatewayThatIgnoresItsNode has a router that answers no ARP and no NDP of the
// node: what node and pod say to each other does not need it.
func TestGatewayThatIgnoresItsNode(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		v := newVPC(t, kind)
		v.router.Must("", "ip", "link", "set", "to-master", "arp", "off")
		v.router.Must("", "ip", "link", "set", "to-master", "down")
		for i, node := range []string{"172.31.22.228", "2406:da1e:c4:ed01::10"} {
			for _, c := range []struct {
				from       *linuxtest.Machine
				to, expect string
			}{{v.a.Machine, node, "master " + bare(guide.a[i])}, {v.master, bare(guide.a[i]), "a " + node}} {
				for _, proto := range []string{"tcp", "udp"} {
					if got, err := c.from.Ask(proto, hostPort(c.to, 8080), askTimeout); err != nil || got != c.expect {
						t.Errorf("%s to %s: got %q, %v; want %q", c.from.Name, c.to, got, err, c.expect)
					}
				}
			}
		}
	})
}

// TestMulticastAndBroadcastBetweenPods are those of one network, on one node.
func TestMulticastAndBroadcastBetweenPods(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		v := newVPC(t, kind)
		// The pod is a member of the groups.
		v.b.Must("", "ip", "maddr", "add", "01:00:5e:01:02:03", "dev", "eth0")
		v.b.Must("", "ip", "maddr", "add", "33:33:00:01:00:05", "dev", "eth0")
		for name, to := range map[string]string{"multicast": "239.1.2.3", "broadcast": "172.31.31.255", "IPv6 multicast": "ff02::1:5"} {
			t.Run(name, func(t *testing.T) {
				// ipvlan hands these on by itself, some time after what was sent later.
				for end := time.Now().Add(askTimeout); ; {
					seen := v.b.Capture("eth0", ipPackets(to))
					if err := v.a.Send("eth0", to, 5000); err != nil {
						t.Fatal(err)
					}
					if _, err := v.a.Ask("udp", hostPort(bare(guide.b[0]), 8080), askTimeout); err != nil {
						t.Fatal(err)
					}
					if seen() > 0 {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("no packet to %s was seen", to)
					}
				}
			})
		}
	})
}
