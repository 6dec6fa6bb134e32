//go:build kernel

package pathprobe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/reach"
)

const port = 5731

// network is a switch with a router and two nodes, and two macvlan pods on each node.
type network struct {
	t                  *testing.T
	lan, router        *linuxtest.Machine
	hosts              [2]*linuxtest.Machine
	pods               map[string]*linuxtest.Machine // by party
	cluster            reach.Cluster
	masters            [2]string
	gateway4, gateway6 string
}

// newNetwork connects everything. masters are the interfaces below the pods: ens5, or a VLAN like ens5.100.
func newNetwork(t *testing.T, masters [2]string) *network {
	t.Helper()
	n := &network{t: t, lan: linuxtest.NewMachine(t, "lan"), router: linuxtest.NewMachine(t, "router"), pods: map[string]*linuxtest.Machine{}, masters: masters}
	n.gateway4, n.gateway6 = "10.6.0.1", "fd00:6::1"
	n.cluster.Port = port
	n.lan.Bridge("br0")
	linuxtest.Wire(n.lan, "router", n.router, "eth0")
	n.lan.Enslave("router", "br0")
	n.router.Addr("eth0", "10.6.0.1/16", "fd00:6::1/64")
	for i := range n.hosts {
		n.addNode(i)
	}
	return n
}

func (n *network) addNode(i int) {
	name := fmt.Sprintf("n%d", i)
	host := linuxtest.NewMachine(n.t, name)
	n.hosts[i] = host
	linuxtest.Wire(n.lan, name, host, "ens5")
	n.lan.Enslave(name, "br0")
	if _, id, ok := strings.Cut(n.masters[i], "."); ok {
		var number int
		if _, err := fmt.Sscan(id, &number); err != nil {
			n.t.Fatal(err)
		}
		if err := host.VLAN("ens5", number); err != nil {
			n.t.Fatal(err)
		}
	}
	for k, role := range []string{"first", "last"} {
		party := fmt.Sprintf("%s-%d", role, i)
		pod := linuxtest.NewMachine(n.t, party)
		n.pods[party] = pod
		host.Sub("macvlan", n.masters[i], pod, "eth0")
		v4, v6 := fmt.Sprintf("10.6.%d.%d", i+1, 10+k), fmt.Sprintf("fd00:6::%d:%d", i+1, 10+k)
		pod.Addr("eth0", v4+"/16", v6+"/64")
		pod.Route("default", n.gateway4, "eth0")
		pod.Route("default", n.gateway6, "eth0")
		n.serve(pod, party)
		n.cluster.Parties = append(n.cluster.Parties, reach.Party{Name: party, Node: name, Interfaces: []reach.Interface{{Name: "eth0", Network: "kube-system/lan", Leases: []reach.Leased{
			{Addr: netip.MustParseAddr(v4), Gateway: netip.MustParseAddr(n.gateway4), Pool: "blue"},
			{Addr: netip.MustParseAddr(v6), Gateway: netip.MustParseAddr(n.gateway6), Pool: "green"},
		}}}})
	}
	n.pods["host-"+name] = host
	n.cluster.Parties = append(n.cluster.Parties, reach.Party{Name: "host-" + name, Node: name, Host: true})
}

func (n *network) serve(m *linuxtest.Machine, name string) {
	n.t.Helper()
	var server *Server
	if err := m.Do(func() (err error) { server, err = Listen(name, port); return err }); err != nil {
		n.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	n.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
}

// facts reads the state of every party.
func (n *network) facts(peers []netip.Addr) {
	n.t.Helper()
	for i := range n.cluster.Parties {
		party := &n.cluster.Parties[i]
		if err := n.pods[party.Name].Do(func() (err error) { party.Facts, err = Facts(peers); return err }); err != nil {
			n.t.Fatal(err)
		}
		party.Facts.NameServers = nil // those of the machine of the test
	}
}

// test asks all questions: those of one party one after the other, the parties at the same time.
func (n *network) test() *reach.World {
	n.t.Helper()
	n.facts(nil)
	w := &reach.World{Cluster: n.cluster, Probes: reach.Plan(&n.cluster), DNSServers: -1}
	var wait sync.WaitGroup
	for name, machine := range n.pods {
		wait.Add(1)
		go func() {
			defer wait.Done()
			err := machine.Do(func() error {
				for i := range w.Probes {
					if p := &w.Probes[i]; p.From == name {
						p.Judge(Ask(p.Question))
					}
				}
				return nil
			})
			if err != nil {
				n.t.Error(err)
			}
		}()
	}
	wait.Wait()
	n.facts(n.cluster.Peers(w.Probes))
	w.Cluster = n.cluster
	return w
}

// failed returns the failed probes, one a line.
func failed(w *reach.World) (lines []string) {
	for _, p := range w.Probes {
		if p.Answer.Fault != "" {
			lines = append(lines, fmt.Sprintf("%s: %s to %s by %s: %s (%s)", p.Path, p.From, p.Question.To, p.Question.Kind, p.Answer.Fault, p.Answer.Detail))
		}
	}
	return lines
}

func TestHealthyNetworkPasses(t *testing.T) {
	w := newNetwork(t, [2]string{"ens5", "ens5"}).test()
	if lines := failed(w); len(lines) > 0 || len(w.Probes) < 20 {
		t.Errorf("%d probes; failed:\n%s", len(w.Probes), strings.Join(lines, "\n"))
	}
	if found := w.Diagnose(); len(found) > 0 {
		t.Error(found)
	}
}

func TestServerSeesClient(t *testing.T) {
	for _, p := range newNetwork(t, [2]string{"ens5", "ens5"}).test().Probes {
		if p.Path == reach.PathOtherNode && p.From == "first-0" && p.Family == 4 && p.Answer.From.String() != "10.6.1.10" {
			t.Errorf("%+v", p)
		}
	}
}

// TestPlantedFaultsAreNamed plants one fault in a real network. The findings have the text.
func TestPlantedFaultsAreNamed(t *testing.T) {
	cases := map[string]struct {
		masters [2]string
		plant   func(n *network)
		want    string
	}{
		"route of a pod removed": {plant: func(n *network) {
			n.pods["first-0"].Must("", "ip", "route", "del", "default")
		}, want: "pod first-0 on node n0: it has no default route for IPv4, although gateway 10.6.0.1 of SpiderIPPool blue"},
		"connected route of a pod removed": {plant: func(n *network) {
			n.pods["first-0"].Must("", "ip", "-6", "route", "del", "fd00:6::/64")
			n.pods["first-0"].Must("", "ip", "-6", "route", "del", "default")
		}, want: "pod first-0 on node n0: it has no route to fd00:6::2:11"},
		"wrong gateway in the pool": {plant: func(n *network) { n.moveGateway("10.6.0.254") },
			want: "SpiderIPPool blue: no host answers for its gateway 10.6.0.254, although other nodes answer on the same network"},
		"strict rp_filter": {plant: func(n *network) {
			last := n.pods["last-1"]
			linuxtest.Wire(last, "net1", n.lan, "spare")
			last.Addr("net1", "10.7.0.2/24")
			last.Must("", "ip", "route", "add", "10.6.1.10/32", "dev", "net1")
			last.Sysctl("net/ipv4/conf/eth0/rp_filter", "1")
		}, want: "pod last-1 on node n1: rp_filter is strict (net/ipv4/conf/eth0/rp_filter is 1), so the kernel drops packets from 10.6.1.10 that arrive on eth0: packets to that address leave by net1"},
		"small MTU between the nodes": {plant: func(n *network) {
			n.lan.Must("", "ip", "link", "set", "n1", "mtu", "1400")
		}, want: "interface eth0 of pods has MTU 1500, but between nodes n0 and n1 such packets are lost; packets of 1400 bytes pass"},
		"stranger with the address of a pod": {plant: func(n *network) {
			stranger := linuxtest.NewMachine(n.t, "stranger")
			linuxtest.Wire(n.lan, "stranger", stranger, "eth0")
			n.lan.Enslave("stranger", "br0")
			stranger.Addr("eth0", "10.6.2.11/16")
			n.pods["last-1"].Sysctl("net/ipv4/conf/eth0/arp_ignore", "8") // the stranger is the faster one
		}, want: "address 10.6.2.11: two hosts use it: pod last-1 on node n1 has it"},
		"node off the network": {plant: func(n *network) {
			n.lan.Must("", "ip", "link", "set", "n1", "nomaster")
		}, want: "network kube-system/lan: it carries no frames of pods between node n1 and the others"},
		"port down": {plant: func(n *network) {
			n.lan.Must("", "ip", "link", "set", "n1", "down")
		}, want: "node n1: interface ens5 is down, and with it interface eth0 of its pods"},
		"master removed": {plant: func(n *network) {
			n.hosts[1].Must("", "ip", "link", "del", "ens5")
		}, want: "pod first-1 on node n1: interface eth0 is gone"},
	}
	if linuxtest.HasKind(t, "vlan") {
		c := cases["node off the network"]
		c.masters, c.plant = [2]string{"ens5.100", "ens5.200"}, func(*network) {}
		c.want = "network kube-system/lan: VLAN 100 carries no frames between node n0 and the others"
		cases["dropped VLAN"] = c
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.masters[0] == "" {
				tc.masters = [2]string{"ens5", "ens5"}
			}
			n := newNetwork(t, tc.masters)
			tc.plant(n)
			w := n.test()
			var got []string
			for _, f := range w.Diagnose() {
				got = append(got, f.Subject+": "+f.Problem)
			}
			if !strings.Contains(strings.Join(got, "\n"), tc.want) {
				t.Errorf("findings:\n%s\nwant %q; failed:\n%s", strings.Join(got, "\n"), tc.want, strings.Join(failed(w), "\n"))
			}
		})
	}
}

// moveGateway makes the pods use another gateway of IPv4.
func (n *network) moveGateway(to string) {
	for i := range n.cluster.Parties {
		party := &n.cluster.Parties[i]
		if !party.Host {
			n.pods[party.Name].Must("", "ip", "route", "replace", "default", "via", to, "dev", "eth0")
			party.Interfaces[0].Leases[0].Gateway = netip.MustParseAddr(to)
		}
	}
}
