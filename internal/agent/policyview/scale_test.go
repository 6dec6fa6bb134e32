//go:build scale

package policyview

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
)

const (
	scalePolicies = 2000
	scalePods     = 30
	scaleHeap     = 60 << 20
)

func heap() int {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// TestTenPoliciesFit measures the memory of a view in a cluster of 2,000 policies. The 30 pods of the node use ten of them:
// nine groups have 1,000 members, and one has all 100,000 pods of the cluster, with scattered addresses.
//
//	go test -tags scale -run TenPolicies -v ./internal/agent/policyview
func TestTenPoliciesFit(t *testing.T) {
	run(t, func(t *testing.T, c *cluster, v *View) {
		before := heap()
		var used []*policy.Policy
		for i := range scalePolicies {
			p := from(fmt.Sprint(i), fmt.Sprint("app=", i), fmt.Sprint("app=client-", i))
			if i >= 10 {
				p.Name.Namespace = fmt.Sprint("n", i%100)
			} else {
				used = append(used, p)
			}
			if i == 0 {
				p.Ingress.Rules[0].Peers[0] = policy.Peer{Namespaces: &policy.Selector{}}
			}
			c.sink.SetPolicy(p)
		}
		c.synced()
		policies := heap()
		addrs := rand.New(rand.NewPCG(1, 2)).Perm(1 << 20)
		for i, p := range used {
			expect(t, v, podOf(fmt.Sprint(i), fmt.Sprint("app=", i)), "? peer group")
			slices := 1
			if i == 0 {
				slices = 100
			}
			c.groups()
			changed := c.followed[groupOf(p)]
			for index := slices - 1; index >= 0; index-- {
				s := &compile.PeerSlice{Group: groupOf(p), Index: index}
				if index == 0 {
					s.Slices = slices
				}
				for _, a := range addrs[index*1000 : index*1000+1000] {
					s.Members = append(s.Members, policy.Member{Addr: netip.AddrFrom4([4]byte{10, byte(a >> 16), byte(a >> 8), byte(a)})})
				}
				changed(index, s)
			}
		}
		clear(addrs)
		addrs = nil
		for i := range scalePods {
			sets, err := decide(v, podOf(fmt.Sprint(i), fmt.Sprint("app=", i%10)), "eth0")
			if err != nil || sets.Ingress == nil {
				t.Fatalf("pod %d: %v, %v", i, sets.Ingress, err)
			}
		}
		size := heap() - before
		t.Logf("2,000 policies: %.1f MiB; with the groups and decisions of %d pods: %.1f MiB", mib(policies-before), scalePods, mib(size))
		if size > scaleHeap {
			t.Errorf("the view takes %.1f MiB, want at most %.0f", mib(size), mib(scaleHeap))
		}
		runtime.KeepAlive(v)
	})
}

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }
