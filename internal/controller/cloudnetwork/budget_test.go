//go:build scale

package cloudnetwork

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// A cluster, and the calls of EC2 that the mode Discover may take there.
const (
	budgetNodes  = 500
	budgetPods   = 20_000
	podsOfNode   = budgetPods / budgetNodes
	blocksOfNode = 3  // /28s: room for 48 pods
	joiningNodes = 20 // one at a time
	steadyPeriod = 15 * time.Minute

	callsOfStart = 5 // three pages of 180 instances, the subnet, and its reservations
	callsOfJoin  = 1
	callsOfPods  = 3 // for 1,000 pods in an hour: three calls each four minutes are 2.25
)

// The calls that the mode Manage may take.
const (
	managedCallsOfJoin = 3
	managedCallsOfPods = 10 // for 1,000 pods in an hour in which they come and go
	churningNodes      = 20
)

// budget is a cluster whose nodes have /28s of one subnet.
type budget struct {
	*wire
	nodes int
	next  netip.Addr // of the next /28
}

// newBudget has a large cluster, below the buckets that AWS documents. start are the calls of a new leader.
func newBudget(x *bench) (b *budget, start int) {
	network := prefix("10.0.0.0/16")
	b = &budget{wire: wireOf(x, ec2test.VPC{IPv4: network}, ec2test.Subnet{IPv4: network}), next: netip.MustParseAddr("10.0.128.0")}
	b.ec2.SetThrottling(ec2test.DocumentedThrottle())
	for range budgetNodes - joiningNodes {
		b.join()
	}
	b.calls()
	b.pass(0)
	return b, b.calls()
}

// join adds a node with its /28s, and the leases of its pods.
func (b *budget) join() {
	b.t.Helper()
	name := fmt.Sprintf("node-%03d", b.nodes)
	b.nodes++
	i := ec2test.Instance{Address: after(netip.MustParseAddr("10.0.0.10"), b.nodes)}
	for range blocksOfNode {
		i.Prefixes = append(i.Prefixes, netip.PrefixFrom(b.next, 28))
		b.next = after(b.next, inet.BlockSize)
	}
	b.start(name, i)
	for pod := range podsOfNode {
		if pod%inet.BlockSize == 0 {
			b.create(b.block(name, i.Prefixes[pod/inet.BlockSize], min(inet.BlockSize, podsOfNode-pod)))
		}
	}
}

func after(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// block returns a block with leases of pods.
func (b *budget) block(node string, piece netip.Prefix, pods int) *v2beta1.SpiderIPBlock {
	block := lease.Block{Base: piece.Addr(), Node: node}
	for n := range pods {
		a := after(piece.Addr(), n)
		block.Leases = append(block.Leases, lease.Lease{
			Addr: a, State: lease.InUse, Pool: "aws-" + node + "-0-v4", Since: b.clock.Now(),
			Holder: lease.Holder{
				Pod: lease.ParsePodKey("default/web-" + a.String()), PodUID: "uid", Node: node, Attachment: lease.Attachment{ContainerID: a.String(), Interface: "eth0"},
			},
		})
	}
	return compile.BlockObject(block)
}

// calls returns the number of calls since the last question.
func (b *budget) calls() (n int) {
	for _, calls := range b.ec2.Calls() {
		n += calls
	}
	b.ec2.ResetCalls()
	return n
}

// TestCallsStayInBudget counts, on the wire, the EC2 calls of 500 nodes with 20,000 pods, below the buckets that AWS
// documents.
func TestCallsStayInBudget(t *testing.T) {
	b, start := newBudget(newBench(t, 4))
	if start > callsOfStart {
		t.Errorf("a new leader takes %d calls, more than %d", start, callsOfStart)
	}

	// Nodes join, one at a time.
	most := 0
	for range joiningNodes {
		b.join()
		b.pass(time.Second)
		most = max(most, b.calls())
	}
	if got := len(b.pools()); got != budgetNodes {
		t.Fatalf("%d nodes have %d pools", budgetNodes, got)
	}
	if most > callsOfJoin {
		t.Errorf("a node that joins takes up to %d calls, more than %d", most, callsOfJoin)
	}

	// Nothing happens.
	passed, pause := time.Duration(0), time.Duration(0)
	for passed < steadyPeriod {
		pause = b.pass(pause)
		passed += pause
	}
	steady := float64(b.calls()) / steadyPeriod.Hours() / (budgetPods / 1000)
	if steady > callsOfPods {
		t.Errorf("%.1f calls in an hour for 1,000 pods, more than %d", steady, callsOfPods)
	}
	if failures := b.ec2.Failures(); len(failures) > 0 {
		t.Errorf("EC2 refused calls: %v", failures)
	}
	t.Logf("%d nodes, %d pods: %d calls of a new leader, at most %d for a node that joins, %.1f in an hour for 1,000 pods", budgetNodes, budgetPods, start, most, steady)
}

// TestManageStaysInBudget counts the calls of the mode Manage: for nodes that join without addresses, and while pods come and go.
func TestManageStaysInBudget(t *testing.T) {
	b, start := newBudget(newManagedBench(t, 4))

	// Nodes join without addresses, one at a time, and wait for their pods.
	most := 0
	for range joiningNodes {
		name := fmt.Sprintf("node-%03d", b.nodes)
		b.nodes++
		b.start(name, ec2test.Instance{})
		b.bench.pods(name, podsOfNode)
		b.pass(time.Second)
		most = max(most, b.calls())
		if got := b.pools()["aws-"+name+"-0-v4"]; got == nil || len(got.Spec.IPs) == 0 {
			t.Fatalf("node %s has no addresses", name)
		}
	}
	if most > managedCallsOfJoin {
		t.Errorf("a node that joins takes up to %d calls, more than %d", most, managedCallsOfJoin)
	}

	// Pods come and go: 12 more on some nodes.
	passed, pause := time.Duration(0), time.Duration(0)
	for turn := 0; passed < steadyPeriod; turn++ {
		for n := range churningNodes {
			node := fmt.Sprintf("node-%03d", n)
			for pod := range 12 {
				if o := waitingPod(node, fmt.Sprintf("%s-churn-%d", node, pod)); turn%2 == 0 {
					b.create(o)
				} else if err := b.c.Delete(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
		}
		pause = b.pass(pause)
		passed += pause
	}
	steady := float64(b.calls()) / steadyPeriod.Hours() / (budgetPods / 1000)
	if steady > managedCallsOfPods {
		t.Errorf("%.1f calls in an hour for 1,000 pods, more than %d", steady, managedCallsOfPods)
	}
	if failures := b.ec2.Failures(); len(failures) > 0 {
		t.Errorf("EC2 refused calls: %v", failures)
	}
	t.Logf("%d nodes, %d pods: %d calls of a new leader, at most %d for a node that joins, %.1f in an hour for 1,000 pods", budgetNodes, budgetPods, start, most, steady)
}
