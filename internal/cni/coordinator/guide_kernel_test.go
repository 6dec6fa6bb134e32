//go:build kernel

package coordinator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// The addresses of the AWS guide.
var guide = struct {
	master, worker, client string
	gateways, workerGW     []string
	a, b, c                []string // two pods of master, one of worker1
}{
	gateways: []string{"172.31.16.1", "2406:da1e:c4:ed01::1"},
	workerGW: []string{"172.31.32.1", "2406:da1e:c4:ed02::1"},
	a:        []string{"172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64"},
	b:        []string{"172.31.28.18/20", "2406:da1e:c4:ed01:c57d::2/64"},
	c:        []string{"172.31.32.180/24", "2406:da1e:c4:ed02:7a2e::4/64"},
}

// The worker and the client of the guide, IPv4 and IPv6; nodes has the master.
var (
	guideWorkers = []string{"172.31.32.10", "2406:da1e:c4:ed02::10"}
	guideClients = []string{"172.31.0.9", "2406:da1e:c4:ed00::9"}
)

type vpc struct {
	router, master, worker, client *linuxtest.Machine
	a, b, c                        *sandbox
}

// newVPC builds the guide's network: a router, two nodes in two subnets, a
// client in a third, two pods on master and one on worker1. With kind "vlan" the
// nodes' interfaces are VLAN interfaces and the pods' are macvlan on top.
func newVPC(t *testing.T, kind string) *vpc {
	v := &vpc{
		router: linuxtest.NewMachine(t, "vpc"), master: linuxtest.NewMachine(t, "master"),
		worker: linuxtest.NewMachine(t, "worker1"), client: linuxtest.NewMachine(t, "client"),
	}
	for _, p := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		v.router.Sysctl(p, "1")
	}
	linuxtest.Wire(v.router, "to-master", v.master, "ens5")
	linuxtest.Wire(v.router, "to-worker1", v.worker, "ens5")
	linuxtest.Wire(v.router, "to-client", v.client, "eth0")
	nic, toMaster, toWorker := "ens5", "to-master", "to-worker1"
	if kind == "vlan" {
		kind = "macvlan"
		for m, parents := range map[*linuxtest.Machine][]string{v.router: {toMaster, toWorker}, v.master: {nic}, v.worker: {nic}} {
			for _, parent := range parents {
				if err := m.VLAN(parent, 100); err != nil {
					t.Fatal(err)
				}
			}
		}
		nic, toMaster, toWorker = nic+".100", toMaster+".100", toWorker+".100"
	}
	v.router.Addr(toMaster, "172.31.16.1/20", "2406:da1e:c4:ed01::1/64")
	v.router.Addr(toWorker, "172.31.32.1/24", "2406:da1e:c4:ed02::1/64")
	v.router.Addr("to-client", "172.31.0.1/24", "2406:da1e:c4:ed00::1/64")
	v.master.Addr(nic, "172.31.22.228/20", "2406:da1e:c4:ed01::10/64")
	v.worker.Addr(nic, "172.31.32.10/24", "2406:da1e:c4:ed02::10/64")
	v.client.Addr("eth0", "172.31.0.9/24", "2406:da1e:c4:ed00::9/64")
	for _, gw := range guide.gateways {
		v.master.Route("default", gw, nic)
	}
	for _, gw := range guide.workerGW {
		v.worker.Route("default", gw, nic)
	}
	v.client.Route("default", "172.31.0.1", "eth0")
	v.client.Route("default", "2406:da1e:c4:ed00::1", "eth0")

	socket := fakeAgent(t, guideReply())
	v.a = v.pod(t, kind, nic, v.master, "a", socket, guide.a, guide.gateways)
	v.b = v.pod(t, kind, nic, v.master, "b", socket, guide.b, guide.gateways)
	v.c = v.pod(t, kind, nic, v.worker, "c", socket, guide.c, guide.workerGW)
	for _, m := range []*linuxtest.Machine{v.master, v.worker, v.client, v.a.Machine, v.b.Machine, v.c.Machine} {
		m.Serve(8080)
	}
	return v
}

func (v *vpc) pod(t *testing.T, kind, nic string, node *linuxtest.Machine, name, socket string, addrs, gateways []string) *sandbox {
	s := newSandbox(t, node, name, socket)
	s.attach(kind, nic, "eth0", addrs, gateways)
	s.must("ADD", "eth0", s.result("eth0", addrs, gateways), nil)
	return s
}

func bare(prefix string) string { return netip.MustParsePrefix(prefix).Addr().String() }

// kubeProxy installs rules of the kind that kube-proxy makes in one of its modes:
// destination translation in prerouting and output, a mark on NodePort traffic
// of policy Cluster, masquerading of what has the mark, and the drop of packets
// that belong to no connection that the node has seen whole.
type kubeProxy struct {
	mode string
	text func(family string, services []clusterService) string
	load func(family string) []string
}

var kubeProxies = []kubeProxy{
	{"nftables", nftablesRules, func(string) []string { return []string{"nft", "-f", "-"} }},
	{"iptables", iptablesRules, func(family string) []string {
		return []string{map[string]string{"ip": "iptables-legacy-restore", "ip6": "ip6tables-legacy-restore"}[family], "--noflush"}
	}},
	{"ipvs", ipvsRules, func(string) []string { return []string{"sh", "-e"} }},
}

func nftablesRules(family string, services []clusterService) string {
	var pre strings.Builder
	for _, s := range services {
		for _, proto := range []string{"tcp", "udp"} {
			mark := ""
			if s.cluster {
				mark = "meta mark set mark or 0x4000 "
			}
			fmt.Fprintf(&pre, "    %s daddr %s %s dport %d %sdnat to %s\n", family, s.ip, proto, s.port, mark, hostPort(s.backend, 8080))
		}
	}
	return fmt.Sprintf(`table %s kube-proxy {
  chain services {
%s  }
  chain prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain output { type nat hook output priority -100; jump services; }
  chain postrouting { type nat hook postrouting priority srcnat; meta mark and 0x4000 != 0 masquerade fully-random; }
  chain forward { type filter hook forward priority filter; ct state invalid drop; }
}
`, family, pre.String())
}

func iptablesRules(_ string, services []clusterService) string {
	var nat strings.Builder
	for _, s := range services {
		for _, proto := range []string{"tcp", "udp"} {
			match := fmt.Sprintf("-A KUBE-SERVICES -d %s -p %s -m %s --dport %d", s.ip, proto, proto, s.port)
			if s.cluster {
				fmt.Fprintf(&nat, "%s -j MARK --or-mark 0x4000\n", match)
			}
			fmt.Fprintf(&nat, "%s -j DNAT --to-destination %s\n", match, hostPort(s.backend, 8080))
		}
	}
	return `*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
` + nat.String() + "COMMIT\n"
}

// ipvsRules is a script: in this mode kube-proxy holds the addresses of services
// on a dummy interface, translates by IPVS, and marks by iptables.
func ipvsRules(family string, services []clusterService) string {
	var b strings.Builder
	b.WriteString("ip link add kube-ipvs0 type dummy 2>/dev/null || ip link show kube-ipvs0 >/dev/null\n" +
		"ipvsadm -Ln >/dev/null\nsysctl -qw net.ipv4.vs.conntrack=1\n")
	iptables := map[string]string{"ip": "iptables-legacy", "ip6": "ip6tables-legacy"}[family]
	fmt.Fprintf(&b, "%s -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully\n", iptables)
	fmt.Fprintf(&b, "%s -A FORWARD -m conntrack --ctstate INVALID -j DROP\n", iptables)
	for _, s := range services {
		bits := map[string]int{"ip": 32, "ip6": 128}[family]
		if s.port == 80 { // a ClusterIP
			fmt.Fprintf(&b, "ip addr add %s/%d dev kube-ipvs0\n", s.ip, bits)
			// The node itself talks to the address from the address.
			fmt.Fprintf(&b, "%s -t nat -A OUTPUT -s %s -d %s -j MARK --or-mark 0x4000\n", iptables, s.ip, s.ip)
		}
		for flag, proto := range map[string]string{"-t": "tcp", "-u": "udp"} {
			if s.cluster {
				for _, chain := range []string{"PREROUTING", "OUTPUT"} {
					fmt.Fprintf(&b, "%s -t nat -A %s -d %s -p %s -m %s --dport %d -j MARK --or-mark 0x4000\n", iptables, chain, s.ip, proto, proto, s.port)
				}
			}
			fmt.Fprintf(&b, "ipvsadm -A %s %s -s rr\nipvsadm -a %s %s -r %s -m\n",
				flag, hostPort(s.ip, s.port), flag, hostPort(s.ip, s.port), hostPort(s.backend, 8080))
		}
	}
	return b.String()
}

func hostPort(addr string, port int) string {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String()
}

// eachProxy runs f for the modes of kube-proxy that the kernel can do.
func eachProxy(t *testing.T, f func(t *testing.T, p kubeProxy)) {
	for _, p := range kubeProxies {
		t.Run(p.mode, func(t *testing.T) {
			load := p.load("ip")
			if out, err := linuxtest.NewMachine(t, "probe").Run(p.text("ip", nil), nil, load[0], load[1:]...); err != nil {
				if strings.Contains(out, "not found") {
					t.Fatalf("the machine lacks a program (bin/lab build installs what is needed): %s", out)
				}
				t.Skipf("this kernel has no NAT for %s: %s", p.mode, out)
			}
			f(t, p)
		})
	}
}

// loadServices installs services in the first mode that the kernel can do.
func loadServices(t *testing.T, node *linuxtest.Machine, family string, services ...clusterService) {
	t.Helper()
	var tried string
	for _, p := range kubeProxies {
		load := p.load(family)
		out, err := node.Run(p.text(family, services), nil, load[0], load[1:]...)
		if err == nil {
			return
		}
		tried += out
	}
	t.Fatalf("no kind of NAT works: %s", tried)
}

type clusterService struct {
	ip      string
	port    int
	backend string
	cluster bool // NodePort of externalTrafficPolicy Cluster
}

// TestGuideTrafficOfUnderlayPods walks every path that the AWS guide's packets
// take and every path beside it that a pod on the underlay has to have.
func TestGuideTrafficOfUnderlayPods(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		eachProxy(t, func(t *testing.T, proxy kubeProxy) {
			walkGuide(t, newVPC(t, kind), proxy, kind)
		})
	}, "vlan")
}

// TestGuideTrafficWithStrictRPFilter has nodes that drop what comes in
// where its answer would not go out (rp_filter 1), as some distributions do.
func TestGuideTrafficWithStrictRPFilter(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		eachProxy(t, func(t *testing.T, proxy kubeProxy) {
			v := newVPC(t, kind)
			for _, node := range []*linuxtest.Machine{v.master, v.worker} {
				node.Sysctl("net/ipv4/conf/all/rp_filter", "1")
			}
			walkGuide(t, v, proxy, "")
		})
	})
}

// guideWalk is a path of the guide's packets.
type guideWalk struct {
	name string
	from *linuxtest.Machine
	to   string
	port int
	// expect is the server's answer through kube-proxy: its name and the source that it
	// sees. byEBPF is the answer if the client's socket is translated; "" for a path
	// without a service.
	expect, byEBPF string
}

// walksOf returns the services and the paths of an IP version: 0 for IPv4, 1 for IPv6.
func (v *vpc) walksOf(i int) ([]clusterService, []guideWalk) {
	vip := []string{"10.96.0.", "fd00:10:96::"}[i]
	node, workerNode, client := nodes[i], guideWorkers[i], guideClients[i]
	a, b, c := bare(guide.a[i]), bare(guide.b[i]), bare(guide.c[i])
	services := []clusterService{
		{ip: vip + "1", port: 80, backend: b},
		{ip: vip + "2", port: 80, backend: c},
		{ip: vip + "3", port: 80, backend: a},
		{ip: vip + "4", port: 80, backend: node},
		{ip: node, port: 30080, backend: a, cluster: true},
		{ip: node, port: 30081, backend: c, cluster: true},
		{ip: node, port: 30082, backend: a},
	}
	return services, []guideWalk{
		{"pod to its node", v.a.Machine, node, 8080, "master " + a, ""},
		{"node to its pod", v.master, a, 8080, "a " + node, ""},
		{"pod to a pod of the same node", v.a.Machine, b, 8080, "b " + a, ""},
		{"pod to a pod of another node", v.a.Machine, c, 8080, "c " + a, ""},
		{"pod to another node", v.a.Machine, workerNode, 8080, "worker1 " + a, ""},
		{"node to a pod of another node", v.master, c, 8080, "c " + node, ""},
		{"other node to a pod", v.worker, a, 8080, "a " + workerNode, ""},
		{"pod to a host beyond the router", v.a.Machine, client, 8080, "client " + a, ""},
		{"host beyond the router to a pod", v.client, a, 8080, "a " + client, ""},
		{"pod to ClusterIP, backend on its node", v.a.Machine, vip + "1", 80, "b " + node, "b " + a},
		{"pod to ClusterIP, backend on another node", v.a.Machine, vip + "2", 80, "c " + node, "c " + a},
		{"pod to ClusterIP, backend is itself", v.a.Machine, vip + "3", 80, "a " + node, "a " + a},
		{"pod to ClusterIP, backend is its node", v.a.Machine, vip + "4", 80, "master " + a, "master " + a},
		{"node to ClusterIP, backend on the node", v.master, vip + "1", 80, "b " + node, "b " + node},
		{"node to ClusterIP, backend on another node", v.master, vip + "2", 80, "c " + node, "c " + node},
		{"host beyond the router to NodePort, backend on the node", v.client, node, 30080, "a " + node, "a " + node},
		{"host beyond the router to NodePort, backend on another node", v.client, node, 30081, "c " + node, "c " + node},
		{"host beyond the router to NodePort of policy Local", v.client, node, 30082, "a " + client, "a " + client},
		{"pod to NodePort of its node", v.b.Machine, node, 30080, "a " + node, "a " + b},
		{"pod of another node to NodePort", v.c.Machine, node, 30080, "a " + node, "a " + node},
		{"pod of another node to NodePort of policy Local", v.c.Machine, node, 30082, "a " + c, "a " + c},
	}
}

// ask has the client of a path ask over both protocols. under runs the client.
func (w guideWalk) ask(t *testing.T, variant []string, expect string, under func(func())) {
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(variant[len(variant)-1]+"/"+proto+"/"+w.name, func(t *testing.T) {
			var got string
			var err error
			defer func() { measure(t, sourceOf(got), append(variant, proto, w.name)...) }()
			under(func() { got, err = w.from.Ask(proto, hostPort(w.to, w.port), askTimeout) })
			if err != nil || got != expect {
				t.Errorf("got %q, %v; want %q", got, err, expect)
			}
		})
	}
}

// sourceOf names the source in an answer, e.g. "pod" for "b 172.31.28.17".
func sourceOf(answer string) string {
	_, addr, _ := strings.Cut(answer, " ")
	for source, addrs := range map[string][]string{
		"node": slices.Concat(nodes, guideWorkers), "client": guideClients, "pod": slices.Concat(guide.a, guide.b, guide.c),
	} {
		if slices.ContainsFunc(addrs, func(a string) bool { return a == addr || strings.HasPrefix(a, addr+"/") }) {
			return source
		}
	}
	return ""
}

func walkGuide(t *testing.T, v *vpc, proxy kubeProxy, kind string) {
	for i, family := range []string{"ip", "ip6"} {
		services, walks := v.walksOf(i)
		load := proxy.load(family)
		v.master.Must(proxy.text(family, services), load[0], load[1:]...)
		for _, w := range walks {
			w.ask(t, []string{kind, proxy.mode, family}, w.expect, func(f func()) { f() })
		}
	}
}
