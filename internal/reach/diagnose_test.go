package reach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestHealthyClusterHasNoFinding(t *testing.T) {
	for _, count := range []int{1, 2, 3} {
		if found := nodes(count).Diagnose(); len(found) > 0 {
			t.Errorf("%d nodes: %v", count, found)
		}
	}
}

// betweenNodes are the paths that pass the network between two nodes by the interface of a pod.
func betweenNodes(p *Probe) bool {
	return slices.Contains([]string{PathOtherNode, PathOtherHost, PathFull, PathServiceFar}, p.Path)
}

func TestLooseFilterDropsNothing(t *testing.T) {
	for _, tc := range []struct{ all, own, want string }{
		{"0", "0", ""}, {"1", "0", "net/ipv4/conf/all/rp_filter"}, {"0", "1", "net/ipv4/conf/eth0/rp_filter"},
		{"2", "1", ""}, {"1", "2", ""}, {"2", "0", ""},
	} {
		f := Facts{Sysctls: map[string]string{"net/ipv4/conf/all/rp_filter": tc.all, "net/ipv4/conf/eth0/rp_filter": tc.own}}
		if path, strict := f.strictFilter("eth0"); path != tc.want || strict != (tc.want != "") {
			t.Errorf("all is %s, eth0 %s: got %q %v, want %q", tc.all, tc.own, path, strict, tc.want)
		}
	}
}

// TestFaultsAreNamed plants one fault each. There must be one finding, with the text.
func TestFaultsAreNamed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plant func(w *World)
		want  string // of "subject: problem. remedy"
	}{
		{"no default route in a pod", func(w *World) {
			w.setWay("first-0", Way{To: netip.MustParseAddr("192.0.2.1")})
			w.fail(NoRoute, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathGateway })
		}, "pod first-0 on node n0: it has no default route for IPv4, although gateway 10.6.0.1 of SpiderIPPool blue is for interface eth0"},
		{"no route in a pod", func(w *World) {
			w.setWay("first-0", Way{To: hostAddr(0)})
			w.fail(NoRoute, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathOwnHost })
		}, "pod first-0 on node n0: it has no route to 10.6.0.10"},
		{"pool without gateway", func(w *World) {
			for i := range w.Parties {
				w.Parties[i].Interfaces[0].Leases[0].Gateway = netip.Addr{}
			}
			w.setWay("first-0", Way{To: hostAddr(1)})
			w.fail(NoRoute, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathOtherHost })
		}, "set spec.gateway or spec.routes of SpiderIPPool blue"},
		{"wrong gateway in the pool", func(w *World) {
			for _, name := range []string{"first-0", "last-0", "first-1", "last-1"} {
				w.setMAC(name, gateway, "")
			}
			w.fail(NoNeighbor, on(PathGateway))
		}, "SpiderIPPool blue: no host answers for its gateway 10.6.0.1, although other nodes answer"},
		{"gateway, one node", func(w *World) {
			*w = *nodes(1)
			for _, name := range []string{"first-0", "last-0"} {
				w.setMAC(name, gateway, "")
			}
			w.fail(NoNeighbor, on(PathGateway))
		}, "the test has no pod on another node"},
		{"dropped VLAN", func(w *World) {
			for _, host := range []string{"host-0", "host-1"} {
				w.setLink(host, "ens5", func(l *Link) { l.Name, l.VLAN = "ens5.100", 100 })
			}
			cut(w)
		}, "network kube-system/lan: VLAN 100 carries no frames between node n0 and the others"},
		{"foreign MAC addresses dropped", cut, "network kube-system/lan: it carries no frames of pods between node n0 and the others. permit more than one MAC address on the ports"},
		{"VLAN interface down", func(w *World) {
			w.setLink("host-0", "ens5", func(l *Link) { l.Name, l.VLAN, l.Up = "ens5.100", 100, false })
			for _, pod := range []string{"first-0", "last-0"} {
				w.setLink(pod, "eth0", func(l *Link) { l.Up = false })
			}
			w.fail(NoNeighbor, func(p *Probe) bool { return p.From == "first-0" && betweenNodes(p) && p.To == p.Server })
		}, "node n0: interface ens5.100 (VLAN 100) is down, and with it interface eth0 of its pods"},
		{"master removed", func(w *World) {
			f := &w.party("first-0").Facts
			f.Links = f.Links[1:]
			w.fail(NoRoute, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathOtherNode })
		}, "pod first-0 on node n0: interface eth0 is gone"},
		{"strict rp_filter in a pod", func(w *World) {
			f := &w.party("last-1").Facts
			f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = "1"
			w.setWay("last-1", Way{To: podAddr(0, 0), Dev: "net1"})
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.To == "last-1" })
		}, "pod last-1 on node n1: rp_filter is strict (net/ipv4/conf/eth0/rp_filter is 1), so the kernel drops packets from 10.6.1.10 that arrive on eth0: packets to that address leave by net1"},
		{"strict rp_filter on a node", func(w *World) {
			w.party("host-1").Facts.Sysctls["net/ipv4/conf/all/rp_filter"] = "1"
			w.setWay("host-1", Way{To: podAddr(0, 0), Dev: "ens6"})
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathOtherHost })
		}, "node n1: rp_filter is strict (net/ipv4/conf/all/rp_filter is 1)"},
		{"network policy", func(w *World) {
			w.Denies = func(p Probe) string {
				if p.Server == "last-1" {
					return "ingress of last-1 is denied: no rule of NetworkPolicy shop/deny allows it"
				}
				return ""
			}
			w.fail(Silent, func(p *Probe) bool { return p.Server == "last-1" && p.From == "first-0" })
		}, "network policy: ingress of last-1 is denied: no rule of NetworkPolicy shop/deny"},
		{"small MTU", func(w *World) {
			w.setLink("host-1", "ens5", func(l *Link) { l.MTU = 1400 })
			for i := range w.Probes {
				if p := &w.Probes[i]; p.Path == PathFull && p.From == "first-0" {
					p.Answer = Answer{Fault: Silent, Largest: 1400}
				}
			}
		}, "interface eth0 of pods has MTU 1500, but between nodes n0 and n1 such packets are lost; packets of 1400 bytes pass; ens5 of node n1 has MTU 1400"},
		{"no service table", func(w *World) {
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && w.isService(p) && p.Path != PathNodePortFar })
		}, "node n0: it does not translate service addresses"},
		{"eBPF not attached", func(w *World) {
			w.Nodes["n0"] = NodeState{Services: "services (service.mode ebpf) is kube-proxy, want eBPF"}
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathService })
		}, "it does not translate service addresses; services (service.mode ebpf) is kube-proxy"},
		{"service without endpoints", func(w *World) {
			w.fail(Refused, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathService })
		}, "node n0: it refuses connections to service address 10.96.0.10:5731"},
		{"service route gone", func(w *World) {
			w.setWay("first-0", Way{To: serviceIP(0), Dev: "eth0", Via: netip.MustParseAddr(gateway), From: podAddr(0, 0)})
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathService })
		}, "pod first-0 on node n0: its packets to service address 10.96.0.10 leave by eth0, not by veth0"},
		{"no forwarding", func(w *World) {
			w.party("host-0").Facts.Sysctls["net/ipv4/ip_forward"] = "0"
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && w.isService(p) })
		}, "node n0: net/ipv4/ip_forward is 0"},
		{"route of the node gone", func(w *World) {
			w.setWay("host-0", Way{To: podAddr(0, 0), Dev: "ens5"})
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.Path == PathOwnHost })
		}, "node n0: its route to pod first-0 (10.6.1.10) by the pod's veth pair is missing: packets leave by ens5"},
		{"stranger with the address of the server", func(w *World) {
			w.setMAC("first-0", podAddr(1, 1).String(), "06:66:66:66:66:66")
			w.fail(Refused, func(p *Probe) bool { return p.From == "first-0" && p.To == "last-1" })
		}, "address 10.6.2.11: two hosts use it: pod last-1 on node n1 has it with hardware address 02:00:0a06020b, and a host with 06:66:66:66:66:66 answers for it"},
		{"stranger with the address of the client", func(w *World) {
			w.setMAC("last-1", podAddr(0, 0).String(), "06:66:66:66:66:66")
			w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.To == "last-1" })
		}, "address 10.6.1.10: two hosts use it"},
		{"stranger that is silent today", func(w *World) {
			w.setMAC("first-0", podAddr(1, 1).String(), "06:66:66:66:66:66")
		}, "add 10.6.2.11 to spec.excludeIPs of SpiderIPPool blue"},
		{"backend with a stranger's host", func(w *World) {
			w.setMAC("first-0", podAddr(1, 1).String(), "06:66:66:66:66:66")
			w.fail(Refused, func(p *Probe) bool { return p.From == "first-0" && p.Server == "last-1" })
		}, "address 10.6.2.11: two hosts use it"},
		{"NodePort through a node without the route", func(w *World) {
			w.setWay("host-1", Way{To: podAddr(1, 1), Dev: "ens5"})
			w.fail(Silent, func(p *Probe) bool {
				return p.From == "first-0" && p.Path == PathNodePortFar || p.From == "host-1" && p.Server == "last-1"
			})
		}, "node n1: its route to pod last-1"},
		{"no DNS server", func(w *World) {
			w.DNSServers = 0
			w.fail(Refused, on(PathDNS))
		}, "DNS of the cluster: no server is ready"},
		{"firewall of a node", func(w *World) {
			w.fail(Silent, func(p *Probe) bool { return p.To == "host-1" })
		}, "node n1: it drops packets of pods to 10.6.0.11"},
		{"unknown", func(w *World) {
			w.fail(Silent, func(p *Probe) bool { return p.From == "host-0" && p.Path == PathHostPod && p.Question.Kind == TCP })
		}, "path node to its pod: host-0 gets from 10.6.1.11:5731 of last-0 by tcp: no answer; no cause is known"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := healthy()
			tc.plant(w)
			texts := textsOf(w.Diagnose())
			if len(texts) != 1 && !strings.Contains(tc.want, "network kube-system/lan") { // one for each node
				t.Errorf("%d findings, want one", len(texts))
			}
			if !strings.Contains(strings.Join(texts, "\n"), tc.want) {
				t.Errorf("got:\n%s\nwant %q", strings.Join(texts, "\n"), tc.want)
			}
		})
	}
}

// cut makes the network between the nodes carry no frames of pods.
func cut(w *World) {
	for _, name := range []string{"first-0", "last-0", "first-1", "last-1"} {
		f := &w.party(name).Facts
		for i := range f.Neighbors {
			if peer := f.Neighbors[i].Addr; w.ownerNode(peer) != w.party(name).Node {
				f.Neighbors[i].MAC = ""
			}
		}
	}
	w.fail(NoNeighbor, func(p *Probe) bool { return p.Path == PathGateway || betweenNodes(p) && p.To == p.Server })
}

func (w *World) ownerNode(addr netip.Addr) string {
	for _, t := range w.Parties {
		if t.Interfaces[0].Leases[0].Addr == addr {
			return t.Node
		}
	}
	return ""
}

func textsOf(findings []Finding) (texts []string) {
	for _, f := range findings {
		texts = append(texts, f.Subject+": "+f.Problem+". "+f.Remedy)
	}
	return texts
}

func TestOneCauseIsOneFinding(t *testing.T) {
	w := healthy()
	w.party("host-0").Facts.Sysctls["net/ipv4/ip_forward"] = "0"
	w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && w.isService(p) })
	found := w.Diagnose()
	if len(found) != 1 || !slices.Contains(found[0].Paths, PathService) || !slices.Contains(found[0].Paths, PathAPIServer) {
		t.Errorf("got %+v", found)
	}
}

func TestProxyARPIsNoStranger(t *testing.T) {
	w := healthy()
	for _, peer := range []string{podAddr(1, 1).String(), podAddr(1, 0).String()} {
		w.setMAC("first-0", peer, "06:66:66:66:66:66")
	}
	w.fail(Silent, func(p *Probe) bool { return p.From == "first-0" && p.To == "last-1" })
	for _, text := range textsOf(w.Diagnose()) {
		if strings.Contains(text, "two hosts") {
			t.Error(text)
		}
	}
}

func TestUnstartedPodsAreExplained(t *testing.T) {
	full := Finding{Subject: "pod first-0", Problem: "interface eth0: it gets no IPv4 address, because its pools are full"}
	for _, tc := range []struct {
		u    Unstarted
		want string
	}{
		{Unstarted{AgentFault: "its spiderpool-agent (pod a) is not ready", Pools: []Finding{full}}, "node n0: its spiderpool-agent (pod a) is not ready, so no new pod gets an address there"},
		{Unstarted{AgentFault: "it has no spiderpool-agent", Host: true, Warning: "Failed: no space"}, "pod first-0: it did not start on node n0: Failed: no space"},
		{Unstarted{Pools: []Finding{full}, Warning: "FailedCreatePodSandBox: …"}, "pod first-0: interface eth0: it gets no IPv4 address, because its pools are full"},
		{Unstarted{Waiting: "ErrImagePull: not found"}, "name an image with spiderpoolctl that the nodes can pull"},
		{Unstarted{Unschedulable: "0/2 nodes are available"}, "the scheduler finds no place on node n0"},
		{Unstarted{}, "it has no event yet"},
	} {
		tc.u.Pod, tc.u.Node = "first-0", "n0"
		if got := strings.Join(textsOf(tc.u.Explain()), "\n"); !strings.Contains(got, tc.want) {
			t.Errorf("%+v: got %q, want %q", tc.u, got, tc.want)
		}
	}
}
