package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"spiderpool.dev/spiderpool/internal/service"
)

// largeCluster has the size that we plan for: 100 namespaces with 1,000 pods and 20 policies each.
func largeCluster() *Cluster {
	const perNamespace, perApp = 1000, 20
	var namespaces []Namespace
	var pods []*Pod
	var policies []*Policy
	addr := netip.MustParseAddr("10.0.0.0")
	for n := range 100 {
		namespace := fmt.Sprintf("n%d", n)
		namespaces = append(namespaces, Namespace{namespace, map[string]string{"team": fmt.Sprint(n % 10)}})
		for i := range perNamespace {
			addr = addr.Next()
			app := fmt.Sprintf("app%d", i/perApp)
			pods = append(pods, &Pod{Name: Name{Namespace: namespace, Name: fmt.Sprint(i)}, Labels: map[string]string{"app": app}, Addrs: []netip.Addr{addr}, Node: "n"})
		}
		for i := range 20 {
			app := Selector{{Key: "app", Values: []string{fmt.Sprintf("app%d", i/2)}}}
			client := Selector{{Key: "app", Values: []string{fmt.Sprintf("app%d", i)}}}
			team := Selector{{Key: "team", Values: []string{fmt.Sprint(i % 10)}}}
			policies = append(policies, &Policy{
				Name: Name{Namespace: namespace, Name: fmt.Sprint(i)}, Pods: app,
				Ingress: Section{true, []Rule{
					{Peers: []Peer{{Pods: &client}, {Namespaces: &team}}, Ports: []Port{{Protocol: service.TCP, From: 8080, To: 8080}}},
					{Peers: []Peer{{Namespaces: &Selector{}, Pods: &Selector{{Key: "app", Values: []string{"app1"}}}}}, AnyPort: true},
				}},
			})
		}
	}
	return NewCluster(namespaces, pods, policies, nil)
}

// TestLargeClusterIsBounded limits the memory of all selectors of a large cluster, and checks that they are resolved once.
func TestLargeClusterIsBounded(t *testing.T) {
	before := heap()
	c := largeCluster()
	cluster := heap()
	for i := range 1000 { // one pod of each isolated app
		f := c.Decide(c.Pod(Name{Namespace: fmt.Sprintf("n%d", i%100), Name: fmt.Sprint(i / 100 * 20)}))
		if f.Sets().Ingress == nil {
			t.Fatalf("%s is open", f.Pod)
		}
	}
	decided := heap()
	runtime.KeepAlive(c)
	t.Logf("pods and policies: %.1f MiB, selectors: %.1f MiB, groups: %d", mib(cluster-before), mib(decided-cluster), len(c.resolved.groups))
	// 20 clients in each of 100 namespaces, 10 teams, and one app in all namespaces.
	if got := len(c.resolved.groups); got != 100*20+10+1 {
		t.Errorf("%d groups of peers", got)
	}
	if got := mib(decided - cluster); got > 64 {
		t.Errorf("the selectors take %.1f MiB", got)
	}
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// BenchmarkDecide decides about one pod in a large cluster, with resolved selectors.
func BenchmarkDecide(b *testing.B) {
	c := largeCluster()
	pod := c.Pod(Name{Namespace: "n7", Name: "0"})
	for b.Loop() {
		f := c.Decide(pod)
		f.Sets()
	}
}

// BenchmarkResolve builds a large cluster and decides about one pod.
func BenchmarkResolve(b *testing.B) {
	for b.Loop() {
		c := largeCluster()
		f := c.Decide(c.Pod(Name{Namespace: "n7", Name: "0"}))
		f.Sets()
	}
}

// BenchmarkManyPorts makes the sets of a policy with every second port, the most that a rule can need.
func BenchmarkManyPorts(b *testing.B) {
	var ports []Port
	for port := 1; port <= maxPort; port += 2 {
		ports = append(ports, Port{Protocol: service.TCP, From: uint16(port), To: uint16(port)})
	}
	pod := &Pod{Name: Name{Namespace: "n", Name: "web"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	p := &Policy{Name: Name{Namespace: "n", Name: "p"}, Ingress: Section{true, []Rule{{AnyPeer: true, Ports: ports}}}}
	c := NewCluster([]Namespace{{Name: "n"}}, []*Pod{pod}, []*Policy{p}, nil)
	for b.Loop() {
		f := c.Decide(pod)
		if got := len(f.Sets().Ingress.Segments); got != len(ports) {
			b.Fatalf("%d segments", got)
		}
	}
}
