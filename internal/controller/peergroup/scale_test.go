//go:build scale

package peergroup

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	scaleNamespaces, scalePodsOfEach, scalePoliciesOfEach = 100, 1000, 20
	scaleHeap                                             = 300 << 20
)

// largeIndex returns the index of 100,000 pods with scattered addresses and of 2,000 policies. Each policy selects clients
// in its namespace, in those of a team, and one application in all namespaces; one selects all pods of the cluster.
func largeIndex() *index {
	x := newIndex(defaultLimits)
	x.adopt(compile.PeerSlice{Group: "former", Slices: 1}, "1", true, time.Now())
	addrs := rand.New(rand.NewPCG(1, 2)).Perm(1 << 20)
	for n := range scaleNamespaces {
		namespace := fmt.Sprint("n", n)
		x.setNamespace(namespace, map[string]string{"team": fmt.Sprint(n % 10)})
		for i := range scalePodsOfEach {
			x.setPod(largePod(namespace, i, addrs[n*scalePodsOfEach+i]))
		}
	}
	for n := range scaleNamespaces {
		for i := range scalePoliciesOfEach {
			name := policy.Name{Namespace: fmt.Sprint("n", n), Name: fmt.Sprint(i)}
			x.setPolicy(name, largePolicy(name, i).Groups(), time.Now())
		}
	}
	return x
}

func largePod(namespace string, i, addr int) (policy.Name, *policy.Pod) {
	name := policy.Name{Namespace: namespace, Name: fmt.Sprint("pod-", i)}
	return name, &policy.Pod{
		Name: name, Labels: map[string]string{"app": fmt.Sprint("app", i/20), "pod-template-hash": "5b8d34ac1a", "tier": "x"},
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(addr >> 16), byte(addr >> 8), byte(addr)})},
		Ports: []policy.NamedPort{{Name: "http", Protocol: service.TCP, Port: 8080}},
	}
}

func largePolicy(name policy.Name, i int) *policy.Policy {
	client, team := equals("app", fmt.Sprint("app", i)), equals("team", fmt.Sprint(i%10))
	one := equals("app", "app1")
	rules := []policy.Rule{
		{AnyPort: true, Peers: []policy.Peer{{Pods: &client}, {Namespaces: &team}}},
		{AnyPort: true, Peers: []policy.Peer{{Namespaces: &policy.Selector{}, Pods: &one}}},
	}
	if i == 0 {
		rules = append(rules, policy.Rule{AnyPort: true, Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}})
	}
	return &policy.Policy{Name: name, Ingress: policy.Section{Isolates: true, Rules: rules}}
}

func equals(key, value string) policy.Selector {
	return policy.Selector{{Key: key, Values: []string{value}}}
}

func heap() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// TestIndexOfLargeClusterFits measures the memory of the index, the size of its objects, and the work for a new pod.
//
//	go test -tags scale -run LargeCluster -v ./internal/controller/peergroup
func TestIndexOfLargeClusterFits(t *testing.T) {
	before, began := heap(), time.Now()
	x := largeIndex()
	took, size := time.Since(began), heap()-before
	objects, bytes, members := 0, 0, 0
	for g := range x.dirty {
		for s := range g.steps {
			text, err := json.Marshal(compile.PeerGroupObject(g.content(s.index)))
			if err != nil {
				t.Fatal(err)
			}
			objects, bytes, members = objects+1, bytes+len(text), members+len(g.slices[s.index].members)
			g.wrote(s.index, "1")
		}
		delete(x.dirty, g)
	}
	t.Logf("%d pods, %d policies, %d groups: built in %s, heap %.1f MiB; %d objects with %d members, %.1f MiB as JSON",
		scaleNamespaces*scalePodsOfEach, len(x.users), len(x.groups), took.Round(time.Millisecond), float64(size)/(1<<20), objects, members, float64(bytes)/(1<<20))
	if size > scaleHeap {
		t.Errorf("the index takes %d MiB, want at most %d", size>>20, scaleHeap>>20)
	}
	began = time.Now()
	const starts = 1000
	changed := 0
	for i := range starts {
		x.setPod(largePod("n7", scalePodsOfEach+i%20, 1<<20+i))
		for g := range x.dirty {
			for s := range g.steps {
				compile.PeerGroupObject(g.content(s.index))
				g.wrote(s.index, "1")
				changed++
			}
			delete(x.dirty, g)
		}
	}
	t.Logf("a new pod takes %s, with %.1f objects", time.Since(began)/starts, float64(changed)/starts)
}
