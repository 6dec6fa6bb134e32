//go:build kernel

package coordinator

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// lone is a node with one underlay interface and a pod on it, before ADD.
func lone(t *testing.T, reply *wire.CoordinatorReply) (*linuxtest.Machine, *sandbox) {
	t.Helper()
	node, router := linuxtest.NewMachine(t, "master"), linuxtest.NewMachine(t, "vpc")
	linuxtest.Wire(node, "ens5", router, "to-master")
	router.Addr("to-master", "172.31.16.1/20", "2406:da1e:c4:ed01::1/64")
	node.Addr("ens5", "172.31.22.228/20", "2406:da1e:c4:ed01::10/64")
	pod := newSandbox(t, node, "a", fakeAgent(t, reply))
	pod.version = "1.0.0"
	pod.attach("macvlan", "ens5", "eth0", guide.a, guide.gateways)
	return node, pod
}

// stateOf is the text of everything that plans touch on a machine.
func stateOf(t *testing.T, m *linuxtest.Machine) string {
	t.Helper()
	ns, err := linux.Open(m.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	st, err := ns.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	named, err := ns.ReadNamed(netplan.State{
		netplan.Masquerade{Family: inet.IPv4, Links: netplan.HostVethPrefix},
		netplan.Masquerade{Family: inet.IPv6, Links: netplan.HostVethPrefix},
	})
	if err != nil {
		t.Fatal(err)
	}
	inPod, err := ns.ReadNamed(netplan.Replies([]inet.Family{inet.IPv4, inet.IPv6}))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(st, named, inPod).String()
}

// withoutShared drops what ADD prepares once for all pods of a node.
func withoutShared(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "masquerade") && !strings.Contains(line, "from all lookup 500") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func TestAddRepeatedChangesNothing(t *testing.T) {
	node, pod := lone(t, guideReply())
	result := pod.result("eth0", guide.a, guide.gateways)
	first := pod.must("ADD", "eth0", result, nil)
	onNode, inPod := stateOf(t, node), stateOf(t, pod.Machine)
	second := pod.must("ADD", "eth0", result, nil)
	if first != second {
		t.Errorf("the result changed:\n%s\n%s", first, second)
	}
	if now := stateOf(t, node); now != onNode {
		t.Errorf("the node changed:\n%s\n%s", onNode, now)
	}
	if now := stateOf(t, pod.Machine); now != inPod {
		t.Errorf("the pod changed:\n%s\n%s", inPod, now)
	}
	pod.must("CHECK", "eth0", result, nil)
}

func TestConcurrentPodsShareNodeRules(t *testing.T) {
	node, first := lone(t, guideReply())
	pods := []*sandbox{first}
	for i := range 7 {
		pod := newSandbox(t, node, fmt.Sprintf("p%d", i), first.socket)
		pod.version = "1.0.0"
		pods = append(pods, pod)
		pod.attach("macvlan", "ens5", "eth0", addrsOf(i), nil)
	}
	var wg sync.WaitGroup
	for i, pod := range pods {
		addrs := guide.a
		if i > 0 {
			addrs = addrsOf(i - 1)
		}
		wg.Go(func() {
			if out, err := pod.call("ADD", "eth0", pod.result("eth0", addrs, nil), nil); err != nil {
				t.Errorf("%s: %v\n%s", pod.Name, err, out)
			}
		})
	}
	wg.Wait()
	text := stateOf(t, node)
	for line, want := range map[string]int{
		"rule ip 1000 from all lookup 500": 1, "rule ip6 1000 from all lookup 500": 1,
		"masquerade ip links spv\n": 1, "masquerade ip6 links spv\n": 1, " table 500 proto 83\n": 2 * len(pods),
	} {
		if n := strings.Count(text, line); n != want {
			t.Errorf("%d times %q, want %d, in\n%s", n, line, want, text)
		}
	}
}

func addrsOf(i int) []string {
	return []string{fmt.Sprintf("172.31.28.%d/20", 100+i), fmt.Sprintf("2406:da1e:c4:ed01:c57d::%d/64", 100+i)}
}

// TestAddDoesNotWaitForLinkLocalAddress has a pod whose link-local address the kernel
// probes for 100 s. No route of a pod needs that address.
func TestAddDoesNotWaitForLinkLocalAddress(t *testing.T) {
	node, router := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "vpc")
	linuxtest.Wire(node, "ens5", router, "x")
	node.Addr("ens5", "172.31.22.228/20")
	pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
	pod.Sysctl("net/ipv6/conf/default/accept_dad", "1")
	pod.Sysctl("net/ipv6/conf/default/dad_transmits", "100")
	pod.attach("macvlan", "ens5", "eth0", guide.a[:1], nil)
	pod.Await("tentative", "ip", "-6", "addr", "show", "dev", "eth0")
	pod.must("ADD", "eth0", pod.result("eth0", guide.a[:1], nil), nil)
}

func TestPodsOfOneIPVersion(t *testing.T) {
	for i, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) {
			node, router := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "vpc")
			linuxtest.Wire(node, "ens5", router, "x")
			address := []string{"172.31.22.228/20", "2406:da1e:c4:ed01::10/64"}[i]
			node.Addr("ens5", address)
			pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
			pod.version = "1.0.0"
			pod.attach("macvlan", "ens5", "eth0", guide.a[i:i+1], nil)
			pod.must("ADD", "eth0", pod.result("eth0", guide.a[i:i+1], nil), nil)
			pod.must("CHECK", "eth0", pod.result("eth0", guide.a[i:i+1], nil), nil)
			node.Serve(8080)
			pod.Serve(8080)
			if got, err := pod.Ask("tcp", hostPort(bare(address), 8080), askTimeout); err != nil || got != "node "+bare(guide.a[i]) {
				t.Errorf("pod to node: %q, %v", got, err)
			}
			if got, err := node.Ask("tcp", hostPort(bare(guide.a[i]), 8080), askTimeout); err != nil || got != "a "+bare(address) {
				t.Errorf("node to pod: %q, %v", got, err)
			}
		})
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	_, pod := lone(t, guideReply())
	result := pod.result("eth0", guide.a, guide.gateways)
	pod.must("ADD", "eth0", result, nil)
	pod.Must("", "ip", "-6", "route", "del", "fd00:10:96::/112")
	out, err := pod.call("CHECK", "eth0", result, nil)
	if err == nil || !strings.Contains(out, "pod: + route fd00:10:96::/112 via fe80::1 dev veth0 src 2406:da1e:c4:ed01:c57d::1") ||
		!strings.Contains(out, `"code": 101`) {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestDelRemovesWhatAddMade(t *testing.T) {
	node, pod := lone(t, guideReply())
	onNode, inPod := stateOf(t, node), stateOf(t, pod.Machine)
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
	pod.must("DEL", "eth0", nil, nil)
	if now := withoutShared(stateOf(t, node)); now != onNode {
		t.Errorf("the node before:\n%s\nand after:\n%s", onNode, now)
	}
	if now := stateOf(t, pod.Machine); now != inPod {
		t.Errorf("the pod before:\n%s\nand after:\n%s", inPod, now)
	}
	pod.must("DEL", "eth0", nil, nil)
}

func TestDelWithoutNamespaceUndoesAdd(t *testing.T) {
	for _, path := range []string{"", "/run/netns/gone", os.DevNull} {
		node, pod := lone(t, guideReply())
		pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
		out, err := node.Run(`{"cniVersion":"0.3.1","name":"n","type":"coordinator"}`, []string{
			cniconf.NodeFileVariable + "=" + nodeFile(pod.socket), "CNI_COMMAND=DEL", "CNI_CONTAINERID=" + pod.id, "CNI_NETNS=" + path, "CNI_IFNAME=eth0", "CNI_PATH=/nonexistent",
		}, "/proc/self/exe")
		if err != nil {
			t.Errorf("DEL with namespace %q: %v\n%s", path, err, out)
		}
		if text := stateOf(t, node); strings.Contains(text, netplan.HostVethPrefix+pod.id[:12]) {
			t.Errorf("DEL with namespace %q left:\n%s", path, text)
		}
	}
}

// TestDelSucceedsWhateverConfigurationSays: the ADD refused the configuration, or the
// configuration changed after the ADD.
func TestDelSucceedsWhateverConfigurationSays(t *testing.T) {
	for name, bad := range map[string]m{
		"MTU as a text":   {"vethMTU": "1500"},
		"unknown version": {"cniVersion": "0.2.0"},
		"no name":         {"name": ""},
		"wrong log size":  {"logOptions": m{"logMaxSize": "many"}},
		"damaged result":  {"prevResult": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			node, pod := lone(t, guideReply())
			pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
			if out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), bad); err == nil {
				t.Errorf("ADD accepts it: %s", out)
			}
			if out, err := pod.call("DEL", "eth0", nil, bad); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if text := stateOf(t, node); strings.Contains(text, netplan.HostVethPrefix+pod.id[:12]) {
				t.Errorf("DEL left:\n%s", text)
			}
		})
	}
}

func TestLateDelKeepsNewRoute(t *testing.T) {
	node, old := lone(t, guideReply())
	result := old.result("eth0", guide.a, guide.gateways)
	old.must("ADD", "eth0", result, nil)
	old.Must("", "ip", "link", "del", "eth0")
	next := newSandbox(t, node, "b", old.socket)
	next.version = "1.0.0"
	next.attach("macvlan", "ens5", "eth0", guide.a, guide.gateways)
	next.must("ADD", "eth0", next.result("eth0", guide.a, guide.gateways), nil)
	old.must("DEL", "eth0", result, nil)
	for _, line := range []string{
		"route 172.31.28.17/32 dev spv" + next.id[:12] + " src 172.31.22.228 table 500 proto 83",
		"route 2406:da1e:c4:ed01:c57d::1/128 dev spv" + next.id[:12] + " src 2406:da1e:c4:ed01::10 table 500 proto 83",
	} {
		if text := stateOf(t, node); !strings.Contains(text, line+"\n") {
			t.Errorf("want %s in\n%s", line, text)
		}
	}
}

func TestFailedAddLeavesNothingBehind(t *testing.T) {
	node, pod := lone(t, guideReply())
	// The pod's end of the pair is taken by something else.
	other := linuxtest.NewMachine(t, "other")
	linuxtest.Wire(pod.Machine, "veth0", other, "x")
	onNode, inPod := stateOf(t, node), stateOf(t, pod.Machine)
	out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
	if err == nil || !strings.Contains(out, "another interface already has the name spv") {
		t.Errorf("got %v\n%s", err, out)
	}
	if now := withoutShared(stateOf(t, node)); now != onNode {
		t.Errorf("the node before:\n%s\nand after:\n%s", onNode, now)
	}
	if now := stateOf(t, pod.Machine); now != inPod {
		t.Errorf("the pod before:\n%s\nand after:\n%s", inPod, now)
	}
}

func TestBadInputLeavesNothingBehind(t *testing.T) {
	for _, c := range []struct {
		name  string
		extra m
		want  string
	}{
		{"unknown default interface", m{"podDefaultRouteNic": "eno7"}, `podDefaultRouteNIC \"eno7\": the pod has no such interface; it has [eth0]`},
		{"gateway that is not on the link", m{"policyRoutes": []m{{"dst": "10.0.0.0/8", "gw": "192.168.7.1"}}}, "the gateway is in no subnet of the pod's interfaces"},
		{"hijacked network that overlaps the pool", m{"hijackCIDR": []string{"172.31.0.0/16"}}, `hijackCIDR \"172.31.0.0/16\": overlaps the subnet 172.31.16.0/20 of the pod's interface eth0`},
		{"service network that holds the pod", m{"serviceCIDR": []string{"172.31.28.0/24"}}, "holds the address 172.31.28.17"},
		{"table of the kernel", m{"hostRuleTable": 254}, `hostRuleTable \"254\"`},
		{"link address that is none", m{"vethLinkAddress": "10.0.0.1"}, `vethLinkAddress \"10.0.0.1\"`},
		{"MTU too small for IPv6", m{"vethMTU": 1000}, "needs 1280 bytes or more"},
		{"unknown mode", m{"mode": "sideways"}, "use auto, underlay, overlay or disabled"},
		{"unknown reverse path filter", m{"podRPFilter": 3}, `podRPFilter \"3\"`},
		{"hardware address of a group", m{"podMACPrefix": "01:1b"}, "multicast"},
		{"malformed hardware address", m{"podMACPrefix": "0a1b"}, `use two hexadecimal bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, pod := lone(t, guideReply())
			onNode, inPod := stateOf(t, node), stateOf(t, pod.Machine)
			out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), c.extra)
			if err == nil || !strings.Contains(out, c.want) || !strings.Contains(out, `"code": 7`) {
				t.Errorf("got %v\n%s", err, out)
			}
			if now := stateOf(t, node); now != onNode {
				t.Errorf("the node changed:\n%s\n%s", onNode, now)
			}
			if now := stateOf(t, pod.Machine); now != inPod {
				t.Errorf("the pod changed:\n%s\n%s", inPod, now)
			}
		})
	}
}

func TestAnnotationNamesPodInterface(t *testing.T) {
	for wish, works := range map[string]bool{"eth0": true, "storage": true, "net1": false} {
		reply := guideReply()
		reply.PodDefaultRouteNIC, reply.PodInterfaces = wish, []string{"eth0", "storage"}
		_, pod := lone(t, reply)
		out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
		if refused := strings.Contains(out, "its attachments are [eth0 storage]"); (err == nil) != works || refused == works {
			t.Errorf("%s: got %v\n%s", wish, err, out)
		}
	}
}

func TestDisabledModeDoesNothing(t *testing.T) {
	node, pod := lone(t, guideReply())
	onNode, inPod := stateOf(t, node), stateOf(t, pod.Machine)
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), m{"mode": "disabled"})
	if stateOf(t, node) != onNode || stateOf(t, pod.Machine) != inPod {
		t.Error("something changed")
	}
}

func TestUnknownServiceNetworkIsTriedAgain(t *testing.T) {
	reply := guideReply()
	reply.Config.ServiceCIDR = nil
	_, pod := lone(t, reply)
	out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
	if err == nil || !strings.Contains(out, `"code": 11`) {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestMACPrefixAnnouncedAndReported(t *testing.T) {
	node, pod := lone(t, guideReply())
	announced := node.Capture("ens5", func(f []byte) bool {
		// An ARP request whose sender and target are the pod's address, from the new hardware address.
		return len(f) >= 42 && f[12] == 8 && f[13] == 6 && string(f[22:28]) == "\x0a\x1b\xac\x1f\x1c\x11" &&
			string(f[28:32]) == "\xac\x1f\x1c\x11" && string(f[38:42]) == "\xac\x1f\x1c\x11"
	})
	advertised := node.Capture("ens5", func(f []byte) bool {
		// A neighbor advertisement (ICMPv6 type 136) with override flag for the pod's address.
		return len(f) >= 86 && f[12] == 0x86 && f[13] == 0xdd && f[54] == 136 && f[58]&0x20 != 0 && f[77] == 1 &&
			string(f[80:86]) == "\x0a\x1b\xac\x1f\x1c\x11"
	})
	out := pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), m{"podMACPrefix": "0a:1b"})
	const want = "0a:1b:ac:1f:1c:11" // 172.31.28.17
	if have := pod.Link("eth0").Attrs().HardwareAddr.String(); have != want || !strings.Contains(out, want) {
		t.Errorf("hardware address is %s, want %s also in\n%s", have, want, out)
	}
	if announced() == 0 {
		t.Error("no gratuitous ARP was seen")
	}
	if advertised() == 0 {
		t.Error("no unsolicited neighbor advertisement was seen")
	}
}

func TestMACPrefixRefusedForIPvlan(t *testing.T) {
	if !linuxtest.HasKind(t, "ipvlan") {
		t.Skip("this kernel has no ipvlan")
	}
	node, other := linuxtest.NewMachine(t, "master"), linuxtest.NewMachine(t, "vpc")
	linuxtest.Wire(node, "ens5", other, "x")
	pod := newSandbox(t, node, "a", fakeAgent(t, guideReply()))
	pod.attach("ipvlan", "ens5", "eth0", guide.a, nil)
	out, err := pod.call("ADD", "eth0", pod.result("eth0", guide.a, nil), m{"podMACPrefix": "0a:1b"})
	if err == nil || !strings.Contains(out, "eth0 is an ipvlan interface") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestVethHasConfiguredAttributes(t *testing.T) {
	node, pod := lone(t, guideReply())
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways),
		m{"vethMTU": 1400, "vethLinkAddress": "169.254.200.1", "txQueueLen": 2000, "podRPFilter": 2})
	for _, l := range []struct {
		m   *linuxtest.Machine
		dev string
	}{{pod.Machine, "veth0"}, {node, "spv" + pod.id[:12]}} {
		a := l.m.Link(l.dev).Attrs()
		if a.MTU != 1400 || a.TxQLen != 2000 {
			t.Errorf("%s has MTU %d and a queue of %d", l.dev, a.MTU, a.TxQLen)
		}
	}
	if a := pod.Link("eth0").Attrs(); a.TxQLen != 2000 {
		t.Errorf("eth0 has a queue of %d", a.TxQLen)
	}
	if text := stateOf(t, pod.Machine); !strings.Contains(text, "addr 169.254.200.1/32 dev veth0\n") {
		t.Errorf("no link address in\n%s", text)
	}
	if out := pod.Must("", "cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter", "/proc/sys/net/ipv4/conf/veth0/rp_filter"); out != "2\n0\n" {
		t.Errorf("rp_filter is %q", out)
	}
}

func TestPodAndNodeNeighborsArePermanent(t *testing.T) {
	node, pod := lone(t, guideReply())
	pod.must("ADD", "eth0", pod.result("eth0", guide.a, guide.gateways), nil)
	node.Serve(8080)
	pod.Serve(8080)
	resolutions := pod.Capture("veth0", func(f []byte) bool {
		return len(f) >= 14 && (f[12] == 8 && f[13] == 6 || len(f) > 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58 && f[54] >= 133 && f[54] <= 136)
	})
	began := time.Now()
	for _, c := range []struct {
		from *linuxtest.Machine
		to   string
	}{{pod.Machine, "172.31.22.228"}, {pod.Machine, "2406:da1e:c4:ed01::10"}, {node, bare(guide.a[0])}, {node, bare(guide.a[1])}} {
		if _, err := c.from.Ask("tcp", hostPort(c.to, 8080), askTimeout); err != nil {
			t.Errorf("%s to %s: %v", c.from.Name, c.to, err)
		}
	}
	t.Logf("the first connections took %s", time.Since(began))
	if n := resolutions(); n != 0 {
		t.Errorf("%d ARP or NDP packets were seen on veth0", n)
	}
}
