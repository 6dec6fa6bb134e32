//go:build kernel

package packetfilter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func (n *network) open(t testing.TB) *Filter {
	t.Helper()
	f, err := Open(n.ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

var blocks = []string{"10.6.0.3/32", "10.6.0.0/28", "10.6.0.4/30", "10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00:6::/64", "fd00:6::4/128", "::/0", "2001:db8::/32"}

var rules = rapid.Custom(func(t *rapid.T) (r policy.Rule) {
	for _, text := range rapid.SliceOfN(rapid.SampledFrom(blocks), 0, 3).Draw(t, "blocks") {
		block := &policy.Block{Prefix: netip.MustParsePrefix(text)}
		if rapid.Bool().Draw(t, "except") {
			block.Except = append(block.Except, netip.MustParsePrefix(rapid.SampledFrom(blocks).Draw(t, "but")))
		}
		r.Peers = append(r.Peers, policy.Peer{Block: block})
	}
	if rapid.Bool().Draw(t, "select") {
		app := policy.Selector{{Key: "app", Values: []string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}}}
		r.Peers = append(r.Peers, policy.Peer{Namespaces: &policy.Selector{}, Pods: &app})
	}
	r.AnyPeer, r.AnyPort = rapid.IntRange(0, 9).Draw(t, "any peer") == 0, rapid.IntRange(0, 4).Draw(t, "any port") == 0
	for range rapid.IntRange(0, 3).Draw(t, "ports") {
		p := policy.Port{Protocol: rapid.SampledFrom(protocols[1:]).Draw(t, "protocol"), From: rapid.SampledFrom(somePorts).Draw(t, "port")}
		if p.To = p.From; rapid.Bool().Draw(t, "range") {
			p.To = rapid.Uint16Range(p.From, 65535).Draw(t, "end")
		}
		r.Ports = append(r.Ports, p)
	}
	return r
})

var sections = rapid.Custom(func(t *rapid.T) policy.Section {
	return policy.Section{Isolates: rapid.IntRange(0, 5).Draw(t, "isolates") > 0, Rules: rapid.SliceOfN(rules, 0, 4).Draw(t, "rules")}
})

// clusterPolicies deny some packets, so that ICMP has segments of its own.
var clusterPolicies = rapid.Custom(func(t *rapid.T) *policy.ClusterPolicy {
	p := &policy.ClusterPolicy{Name: policy.Name{Name: "c"}, Tier: rapid.SampledFrom([]policy.Tier{policy.Admin, policy.Baseline}).Draw(t, "tier")}
	rule := rapid.Custom(func(t *rapid.T) policy.TierRule {
		return policy.TierRule{Rule: rules.Draw(t, "rule"), Action: rapid.SampledFrom([]policy.Action{policy.Accept, policy.Deny, policy.Pass}).Draw(t, "action")}
	})
	p.Ingress, p.Egress = rapid.SliceOfN(rule, 0, 3).Draw(t, "ingress"), rapid.SliceOfN(rule, 0, 3).Draw(t, "egress")
	return p
})

func addrsOf(texts []string) (addrs []netip.Addr) {
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

var thePod = &policy.Pod{Name: policy.Name{Namespace: "default", Name: "web"}, Labels: map[string]string{"web": ""}, Addrs: addrsOf(podAddrs), NodeAddrs: addrsOf(nodeAddrs)}

func clusterWith(ingress, egress policy.Section, tiers ...*policy.ClusterPolicy) *policy.Cluster {
	p := &policy.Policy{Name: policy.Name{Namespace: "default", Name: "p"}, Ingress: ingress, Egress: egress}
	return policy.NewCluster([]policy.Namespace{{Name: "default"}}, []*policy.Pod{thePod}, []*policy.Policy{p}, tiers)
}

func wantedOf(c *policy.Cluster) Wanted {
	f := c.Decide(thePod)
	return Wanted{Interfaces: []Interface{{Name: "eth0", Addrs: thePod.Addrs, Always: f.Always, Sets: f.Sets()}}}
}

// world is a cluster that changes at random. Each peer is a pod, or no pod.
type world struct {
	// storage means that the pod and its peers are on the network storage, with net1 and a MultiNetworkPolicy.
	storage         bool
	peers           []*policy.Pod
	ingress, egress policy.Section
	tiers           []*policy.ClusterPolicy
}

func (w *world) cluster() *policy.Cluster {
	p := &policy.Policy{Name: policy.Name{Namespace: "default", Name: "p"}, Pods: policy.Selector{{Key: "web", Operator: policy.Exists}}, Ingress: w.ingress, Egress: w.egress}
	pods := append([]*policy.Pod{thePod}, w.peers...)
	policies := []*policy.Policy{p}
	if w.storage {
		p.Name.Multi, p.Networks = true, []policy.Name{storage}
		for i := range pods {
			pods[i] = onStorage(pods[i])
		}
		// It isolates eth0 only.
		policies = append(policies, &policy.Policy{Name: policy.Name{Namespace: "default", Name: "eth0"}, Ingress: closed, Egress: closed})
	}
	return policy.NewCluster([]policy.Namespace{{Name: "default"}}, pods, policies, w.tiers)
}

var storage = policy.Name{Namespace: "shop", Name: "storage"}

// onStorage gives net1 the addresses of a pod.
func onStorage(p *policy.Pod) *policy.Pod {
	moved := *p
	moved.Addrs, moved.Interfaces = nil, []policy.Interface{{Name: "net1", Network: storage, Addrs: p.Addrs}}
	return &moved
}

// wanted returns the filter of the pod.
func (w *world) wanted(c *policy.Cluster) Wanted {
	all := wantedOf(c)
	if w.storage {
		pod := onStorage(thePod)
		f := c.DecideInterface(pod, &pod.Interfaces[0])
		all.Interfaces = append(all.Interfaces, Interface{Name: "net1", Addrs: thePod.Addrs, Always: f.Always, Sets: f.Sets()})
	}
	return all
}

// change mutates the world. It reports whether the agent restarts, too.
func (w *world) change(t *rapid.T) (restart bool) {
	switch rapid.IntRange(0, 5).Draw(t, "change") {
	case 0:
		return true
	case 1:
		w.ingress = sections.Draw(t, "new ingress")
	case 2: // other peers, same ports
		for i := range w.ingress.Rules {
			w.ingress.Rules[i].Peers = rules.Draw(t, "peers").Peers
		}
	case 3:
		w.egress = sections.Draw(t, "new egress")
	case 4: // a label
		if len(w.peers) > 0 {
			rapid.SampledFrom(w.peers).Draw(t, "pod").Labels = labels.Draw(t, "labels")
		}
	case 5:
		w.peers = peerPods.Draw(t, "pods")
	}
	return false
}

var (
	labels = rapid.Custom(func(t *rapid.T) map[string]string {
		return map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}
	})
	peerPods = rapid.Custom(func(t *rapid.T) (pods []*policy.Pod) {
		for _, addr := range peerAddrs {
			if rapid.Bool().Draw(t, addr) {
				pods = append(pods, &policy.Pod{Name: policy.Name{Namespace: "default", Name: addr}, Labels: labels.Draw(t, "labels"), Addrs: addrsOf([]string{addr})})
			}
		}
		return pods
	})
)

// follow applies random changes one after the other, and sends packets after each.
func (n *network) follow(t *testing.T, restart func(), apply func(Wanted) error) {
	steps := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{storage: n.dev == "net1", peers: peerPods.Draw(rt, "pods"), ingress: sections.Draw(rt, "ingress"), egress: sections.Draw(rt, "egress")}
		w.tiers = rapid.SliceOfN(clusterPolicies, 0, 2).Draw(rt, "tiers")
		for range rapid.IntRange(1, 3).Draw(rt, "changes") {
			if w.change(rt) {
				restart()
			}
			c := w.cluster()
			all := w.wanted(c).Interfaces
			sets := all[len(all)-1].Sets
			if err := apply(Wanted{Interfaces: all}); err != nil {
				rt.Fatalf("%v\n%s", err, sets)
			}
			steps++
			n.compare(t, c, fmt.Sprintf("step %d:\n%s", steps, sets))
		}
	})
	t.Logf("%d changes", steps)
}

// TestKernelFollowsPolicies compares the verdicts of the kernel in the pod with those of package policy.
func TestKernelFollowsPolicies(t *testing.T) {
	for _, dev := range []string{"eth0", "net1"} {
		t.Run(dev, func(t *testing.T) { newNetworkOn(t, dev).followInPod(t) })
	}
}

func (n *network) followInPod(t *testing.T) {
	f := n.open(t)
	n.follow(t, func() {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = n.open(t)
	}, func(w Wanted) error { return f.Apply(w) })
}

// TestNodeFollowsPolicies does the same on the node between the pod and its peers.
func TestNodeFollowsPolicies(t *testing.T) {
	n := newForwardedNetwork(t)
	var f *Node
	open := func() {
		var err error
		if f, err = OpenNode(n.ns); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	open()
	n.follow(t, func() {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		open()
	}, func(w Wanted) error { return errors.Join(f.Set(pairA, w), f.Adopted()) })
}

// open lets all packets of a direction pass, closed none.
var (
	open   = policy.Section{}
	closed = policy.Section{Isolates: true}
)

func allowing(prefix string, protocol service.Protocol, port uint16) policy.Section {
	peer := policy.Peer{Block: &policy.Block{Prefix: netip.MustParsePrefix(prefix)}}
	return policy.Section{Isolates: true, Rules: []policy.Rule{{Peers: []policy.Peer{peer}, Ports: []policy.Port{{Protocol: protocol, From: port, To: port}}}}}
}

func (f *Filter) must(t *testing.T, ingress, egress policy.Section) {
	t.Helper()
	if err := f.Apply(wantedOf(clusterWith(ingress, egress))); err != nil {
		t.Fatal(err)
	}
}

// echo answers lines on port 80.
func echo(t *testing.T, m *linuxtest.Machine) {
	t.Helper()
	var listener net.Listener
	if err := m.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
}

// TestConnectionsOutlivePolicy denies a connection after its first packets.
func TestConnectionsOutlivePolicy(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pod)
	f := n.open(t)
	f.must(t, allowing("10.6.0.3/32", service.TCP, 80), open)
	var asked net.Conn
	if err := n.peers.Do(func() (err error) {
		from := &net.TCPAddr{IP: net.ParseIP("10.6.0.3")}
		asked, err = (&net.Dialer{LocalAddr: from, Timeout: time.Second}).Dial("tcp", "10.6.0.1:80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	f.must(t, closed, open)
	if err := asked.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := asked.Write([]byte("ping\n")); err != nil {
		t.Fatal(err)
	}
	if answer, err := bufio.NewReader(asked).ReadString('\n'); err != nil || answer != "ping\n" {
		t.Errorf("the connection: %q, %v", answer, err)
	}
	if _, err := n.peers.Ask("tcp", "10.6.0.1:80", 300*time.Millisecond); err == nil {
		t.Error("a new connection passes")
	}
}
