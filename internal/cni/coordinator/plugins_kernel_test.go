//go:build kernel

package coordinator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

const repository = "github.com/containernetworking/plugins/plugins/"

// plugins are the main plugins of containernetworking.
var plugins = linuxtest.Plugins{Root: "../../..",
	Lab: []string{repository + "main/macvlan", repository + "main/ipvlan", repository + "main/bridge", repository + "main/ptp", repository + "ipam/static"}}

// plug has a real main plugin make an interface, and returns its result. main is
// its configuration without addresses.
func (s *sandbox) plug(ifName string, main m, addrs, gateways []string) m {
	s.t.Helper()
	dir, err := plugins.Dir()
	if err != nil {
		s.t.Fatal(err)
	}
	addresses, routes := []m{}, []m{}
	for i, a := range addrs {
		addresses = append(addresses, m{"address": a, "gateway": gateways[i]})
		dst := "0.0.0.0/0"
		if netip.MustParsePrefix(a).Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, m{"dst": dst, "gw": gateways[i]})
	}
	main["cniVersion"], main["name"] = s.version, "n"
	main["ipam"] = m{"type": "static", "addresses": addresses, "routes": routes}
	stdin, err := json.Marshal(main)
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.node.Run(string(stdin), []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + s.id, "CNI_NETNS=" + s.Path(), "CNI_IFNAME=" + ifName, "CNI_PATH=" + dir,
	}, filepath.Join(dir, main["type"].(string)))
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", main["type"], err, out)
	}
	var result m
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		s.t.Fatal(err)
	}
	return result
}

// attachment is an interface with its plugins' configurations and the result of
// the first of them.
type attachment struct {
	ifName          string
	main            m
	addrs, gateways []string
	coordinator     m
	result          m
}

// add runs the plugin chain of an attachment as a runtime does.
func (s *sandbox) add(a *attachment) {
	s.t.Helper()
	a.result = s.plug(a.ifName, a.main, a.addrs, a.gateways)
	s.must("ADD", a.ifName, a.result, a.coordinator)
}

// checkAll wants CHECK of every attachment to pass.
func (s *sandbox) checkAll(all ...*attachment) {
	s.t.Helper()
	for _, a := range all {
		if out, err := s.call("CHECK", a.ifName, a.result, a.coordinator); err != nil {
			s.t.Errorf("CHECK of %s: %v\n%s", a.ifName, err, out)
		}
	}
}

var net2, gw2 = []string{"10.30.0.17/24", "fd30::17/64"}, []string{"10.30.0.1", "fd30::1"}

// threeOf are attachments to the plant's networks, the third beside the second.
func (p *plant) threeOf(kind string) (eth0, net1nic, net2nic *attachment) {
	p.router.Addr("br1", "10.30.0.1/24", "fd30::1/64")
	return &attachment{ifName: "eth0", main: m{"type": kind, "master": "ens5"}, addrs: net0, gateways: gw0},
		&attachment{ifName: "net1", main: m{"type": kind, "master": "ens6"}, addrs: net1, gateways: gw1},
		&attachment{ifName: "net2", main: m{"type": kind, "master": "ens6"}, addrs: net2, gateways: gw2}
}

// defaults are the default routes of the main table.
func (s *sandbox) defaults() []string {
	var out []string
	for line := range strings.Lines(stateOf(s.t, s.Machine)) {
		if (strings.HasPrefix(line, "route 0.0.0.0/0 ") || strings.HasPrefix(line, "route ::/0 ")) && !strings.Contains(line, " table ") {
			f := strings.Fields(line)
			out = append(out, strings.Join(f[:6], " "))
		}
	}
	return out
}

func defaultsVia(gateways []string, dev string) []string {
	return []string{"route 0.0.0.0/0 via " + gateways[0] + " dev " + dev, "route ::/0 via " + gateways[1] + " dev " + dev}
}

// TestThreeInterfacesOfRealPlugins attaches eth0, net1 and net2 by the plugins that
// users have, which add their routes beside those that are there.
func TestThreeInterfacesOfRealPlugins(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		for wish, want := range map[string][]string{
			"": defaultsVia(gw0, "eth0"), "eth0": defaultsVia(gw0, "eth0"), "net1": defaultsVia(gw1, "net1"), "net2": defaultsVia(gw2, "net2"),
		} {
			t.Run("default="+wish, func(t *testing.T) {
				p := newPlant(t)
				p.kind, p.def = "three "+kind, cmp.Or(wish, "not chosen")
				eth0, net1nic, net2nic := p.threeOf(kind)
				for _, a := range []*attachment{eth0, net1nic, net2nic} {
					a.coordinator = m{"podDefaultRouteNic": wish}
					p.pod.add(a)
				}
				if got := p.pod.defaults(); !slices.Equal(got, want) {
					t.Errorf("default routes are %q, want %q", got, want)
				}
				p.pod.checkAll(eth0, net1nic, net2nic)
				for i := range clients {
					var walks []walk
					for _, on := range []string{"eth0", "net1", "net2"} {
						addr := bare(map[string][]string{"eth0": net0, "net1": net1, "net2": net2}[on][i])
						others := slices.DeleteFunc([]string{"eth0", "net1", "net2", "veth0"}, func(o string) bool { return o == on })
						walks = append(walks, walk{"client to " + on, p.client, addr, 8080, "pod " + clients[i], clients[i], on, others})
					}
					p.walk(t, walks)
				}
			})
		}
	})
}

// TestAttachmentsKeepWhatTheOthersArranged gives every attachment another
// configuration.
func TestAttachmentsKeepWhatTheOthersArranged(t *testing.T) {
	p := newPlant(t)
	eth0, net1nic, net2nic := p.threeOf("macvlan")
	eth0.coordinator = m{"policyRoutes": []m{{"dst": "198.51.100.0/24", "gw": peers0[0]}, {"dst": "2001:db8:ffff::/48", "gw": peers0[1]}},
		"hijackCIDR": []string{"169.254.0.0/16", "198.18.0.0/15"}, "podRPFilter": 2, "txQueueLen": 700, "vethMTU": 1400}
	net1nic.coordinator = m{"policyRoutes": []m{{"dst": "203.0.113.0/24", "gw": peers1[0]}, {"dst": "203.0.114.0/24", "gw": "172.31.16.51"}},
		"hostRuleTable": 600, "podDefaultRouteNic": "net1", "txQueueLen": 800}
	net2nic.coordinator = m{"tunePodRoutes": false}
	for _, a := range []*attachment{eth0, net1nic, net2nic} {
		p.pod.add(a)
	}
	p.pod.checkAll(eth0, net1nic, net2nic)
	if got := p.pod.defaults()[:1]; !strings.HasPrefix(got[0], "route 0.0.0.0/0") {
		t.Errorf("default routes: %q", p.pod.defaults())
	}
	text := stateOf(t, p.pod.Machine)
	for _, table := range []string{"", " table 100", " table 101"} {
		for _, r := range []string{"198.51.100.0/24 via 172.31.16.50 dev eth0", "203.0.113.0/24 via 10.20.0.50 dev net1", "203.0.114.0/24 via 172.31.16.51 dev eth0"} {
			if !strings.Contains(text, "route "+r+table+" proto 83\n") {
				t.Errorf("no route %s%s", r, table)
			}
		}
		if !strings.Contains(text, "route 198.18.0.0/15 via 169.254.0.1 dev veth0 src ") {
			t.Errorf("the network that eth0 hijacks is gone")
		}
	}
	for path, want := range map[string]string{"net/ipv4/conf/eth0/rp_filter": "2", "net/ipv4/conf/veth0/rp_filter": "0", "net/ipv4/conf/net1/rp_filter": "0"} {
		if got := strings.TrimSpace(p.pod.Must("", "cat", "/proc/sys/"+path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	for dev, want := range map[string]int{"eth0": 700, "net1": 800, "veth0": 700} {
		if got := p.pod.Link(dev).Attrs().TxQLen; got != want {
			t.Errorf("%s has a queue of %d, want %d", dev, got, want)
		}
	}
	onNode := stateOf(t, p.node)
	for _, want := range []string{"172.31.28.17/32 dev spv" + p.pod.id[:12] + " src 172.31.22.228 table 500", "10.20.0.17/32 dev spv" + p.pod.id[:12] + " src 172.31.22.228 table 600"} {
		if !strings.Contains(onNode, "route "+want) {
			t.Errorf("no route %s on the node", want)
		}
	}
}

// TestTablesStayWithTheirInterfaces attaches an interface whose name comes before
// that of one that is there.
func TestTablesStayWithTheirInterfaces(t *testing.T) {
	p := newPlant(t)
	eth0, storage, early := p.threeOf("macvlan")
	storage.ifName, early.ifName = "storage", "net1"
	for _, a := range []*attachment{eth0, storage, early} {
		p.pod.add(a)
	}
	p.pod.checkAll(eth0, storage, early)
	text := stateOf(t, p.pod.Machine)
	for from, table := range map[string]int{net0[0]: 100, net1[0]: 101, net2[0]: 102} {
		if want := fmt.Sprintf("rule ip 2000 from %s/32 lookup %d proto 83\n", bare(from), table); strings.Count(text, "from "+bare(from)) != 1 || !strings.Contains(text, want) {
			t.Errorf("want %sin\n%s", want, text)
		}
	}
}

// TestClusterPolicyRoutesNeedReachableGateway has one through a network
// that is attached later, and one through a network that this pod does not have.
func TestClusterPolicyRoutesNeedReachableGateway(t *testing.T) {
	p := newPlant(t)
	reply := guideReply()
	reply.Config.PolicyRoutes = []inet.Route{
		{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr(peers1[0])},
		{Dst: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr("192.168.77.1")},
	}
	p.pod.socket = fakeAgent(t, reply)
	eth0, net1nic, _ := p.threeOf("macvlan")
	p.pod.add(eth0)
	p.pod.checkAll(eth0)
	p.pod.add(net1nic)
	p.pod.checkAll(eth0, net1nic)
	text := stateOf(t, p.pod.Machine)
	if !strings.Contains(text, "route 198.51.100.0/24 via 10.20.0.50 dev net1 proto 83\n") || strings.Contains(text, "203.0.113.0") {
		t.Errorf("the pod has\n%s", text)
	}
}

// TestDetachedDefaultRouteGoesBack detaches the interface with the default route.
func TestDetachedDefaultRouteGoesBack(t *testing.T) {
	p := newPlant(t)
	eth0, net1nic, _ := p.threeOf("macvlan")
	net1nic.coordinator = m{"podDefaultRouteNic": "net1"}
	p.pod.add(eth0)
	p.pod.add(net1nic)
	if got, want := p.pod.defaults(), defaultsVia(gw1, "net1"); !slices.Equal(got, want) {
		t.Fatalf("default routes are %q, want %q", got, want)
	}
	p.pod.must("DEL", "net1", net1nic.result, net1nic.coordinator)
	p.pod.Must("", "ip", "link", "del", "net1") // as the main plugin does
	if got, want := p.pod.defaults(), defaultsVia(gw0, "eth0"); !slices.Equal(got, want) {
		t.Errorf("default routes are %q, want %q", got, want)
	}
	if text := stateOf(t, p.pod.Machine); strings.Contains(text, " table 101 ") || strings.Contains(text, "lookup 101") {
		t.Errorf("table 101 is left:\n%s", text)
	}
	p.pod.checkAll(eth0)
}

// TestOverlayOfRealPlugins has the overlay made by the bridge and the ptp plugin,
// and net1 by macvlan, in the node's own subnet.
func TestOverlayOfRealPlugins(t *testing.T) {
	pod0, bridge := []string{"10.244.0.5/24", "fd00:244::5/64"}, []string{"10.244.0.1", "fd00:244::1"}
	for kind, main := range map[string]m{
		"bridge": {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false},
		"ptp":    {"type": "ptp", "ipMasq": false},
	} {
		t.Run(kind, func(t *testing.T) {
			p := newPlant(t)
			p.kind, p.def = "overlay "+kind+" and macvlan", "eth0"
			p.pod.plug("eth0", main, pod0, bridge)
			n := &attachment{ifName: "net1", main: m{"type": "macvlan", "master": "ens5"}, addrs: net0, gateways: gw0,
				coordinator: m{"overlayPodCIDR": []string{"10.244.0.0/16", "fd00:244::/48"}}}
			p.pod.add(n)
			p.pod.checkAll(n)
			if got, want := p.pod.defaults(), defaultsVia(bridge, "eth0"); !slices.Equal(got, want) {
				t.Errorf("default routes are %q, want %q", got, want)
			}
			for i, family := range []string{"ip", "ip6"} {
				vip, a0, a1 := []string{"10.96.0.1", "fd00:10:96::1"}[i], bare(pod0[i]), bare(net0[i])
				loadServices(t, p.node, family, clusterService{ip: vip, port: 80, backend: nodes[i]})
				p.walk(t, []walk{
					{"client to net1", p.client, a1, 8080, "pod " + clients[i], clients[i], "net1", []string{"eth0"}},
					{"underlay peer to net1", p.peer0, a1, 8080, "pod " + peers0[i], peers0[i], "net1", []string{"eth0"}},
					{"pod to underlay peer", p.pod.Machine, peers0[i], 8080, "peer0 " + a1, peers0[i], "net1", []string{"eth0"}},
					{"node to net1", p.node, a1, 8080, "pod " + nodes[i], nodes[i], "eth0", []string{"net1"}},
					{"node to eth0", p.node, a0, 8080, "pod " + bridge[i], bridge[i], "eth0", []string{"net1"}},
					{"pod to node", p.pod.Machine, nodes[i], 8080, "node " + a0, nodes[i], "eth0", []string{"net1"}},
					{"pod to ClusterIP", p.pod.Machine, vip, 80, "node " + a0, vip, "eth0", []string{"net1"}},
				})
			}
		})
	}
}

// TestDelOfOverlayPodWithoutNamespace removes the routes over the bridge, which
// stays, if the agent says that the pod still holds the addresses.
func TestDelOfOverlayPodWithoutNamespace(t *testing.T) {
	for _, holds := range []bool{true, false} {
		t.Run(fmt.Sprintf("holds=%v", holds), func(t *testing.T) {
			p := newPlant(t)
			a := newAgent(t, guideReply())
			p.pod.socket = a.socket
			p.pod.plug("eth0", m{"type": "bridge", "bridge": "cni0", "isGateway": true},
				[]string{"10.244.0.5/24", "fd00:244::5/64"}, []string{"10.244.0.1", "fd00:244::1"})
			n := &attachment{ifName: "net1", main: m{"type": "macvlan", "master": "ens5"}, addrs: net0, gateways: gw0}
			p.pod.add(n)
			for _, addr := range net0 {
				a.holders[bare(addr)] = map[bool]string{true: p.pod.id, false: "another"}[holds]
			}
			conf, err := json.Marshal(m{"cniVersion": "1.0.0", "name": "n", "type": "coordinator", "prevResult": n.result})
			if err != nil {
				t.Fatal(err)
			}
			if out, err := p.node.Run(string(conf), []string{cniconf.NodeFileVariable + "=" + nodeFile(a.socket), "CNI_COMMAND=DEL", "CNI_CONTAINERID=" + p.pod.id, "CNI_NETNS=",
				"CNI_IFNAME=net1", "CNI_PATH=/nonexistent", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod"}, "/proc/self/exe"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			text := stateOf(t, p.node)
			for _, addr := range net0 {
				for _, line := range []string{"route " + netip.PrefixFrom(netip.MustParseAddr(bare(addr)), netip.MustParseAddr(bare(addr)).BitLen()).String() + " dev cni0", "neighbor " + bare(addr) + " mac"} {
					if strings.Contains(text, line) == holds {
						t.Errorf("%s: %v; in\n%s", line, !holds, text)
					}
				}
			}
		})
	}
}
