package cloudnetwork

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
)

// manageModel is a cloud of two nodes with agents whose view of the pools may be old, and a controller that may die.
type manageModel struct {
	*bench
	random *rand.Rand
	nodes  map[string]string // interfaces by node
	views  map[string]inet.Set
	mortal *mortal
	next   time.Duration
	thaw   time.Time                        // when the descriptions of the cloud are no longer stale
	fatalf func(format string, args ...any) // of rapid, which then says how to repeat the run
}

func newManageModel(t *testing.T, rt *rapid.T) *manageModel {
	seed := rapid.Uint64().Draw(rt, "seed")
	m := &manageModel{bench: newManagedBench(t, 4), random: rand.New(rand.NewPCG(seed, 0)), nodes: map[string]string{}, views: map[string]inet.Set{}, fatalf: rt.Fatalf}
	for _, node := range []string{"worker1", "worker2"} {
		m.nodes[node] = m.join(node, m.subnets[1])
	}
	m.restart(0)
	return m
}

// restart begins a controller that dies after some steps; never for 0.
func (m *manageModel) restart(steps int) {
	m.cloud.Thaw() // a new leader cannot know that descriptions are stale
	m.mortal = &mortal{Provider: m.cloud, steps: steps, lost: m.random.IntN(2) == 0}
	m.start(m.mortal.client(m.c), m.mortal)
	m.r.jitter = func(limit time.Duration) time.Duration { return time.Duration(m.random.Int64N(int64(limit))) }
	m.next = 0
}

// reconcileNow lets time pass until the controller wants to run, and runs it.
func (m *manageModel) reconcileNow() {
	m.clock.SetTime(m.clock.Now().Add(m.next))
	if m.clock.Now().After(m.thaw) {
		m.cloud.Thaw()
	}
	withheld := m.withheld()
	next, err := m.reconcile()
	if !m.withheld().ContainsSet(withheld) {
		// The agents have seen the former pool without the addresses (ADR 35): only a watch that is broken for longer has not.
		for node := range m.nodes {
			m.sync(node)
		}
	}
	if m.next = next; err != nil {
		m.next = 100 * time.Millisecond
	}
	if m.mortal.dead {
		m.restart(0)
	}
}

// sync has an agent read its pool.
func (m *manageModel) sync(node string) {
	m.views[node] = inet.Set{}
	if pool := m.pools()["aws-"+node+"-0-v4"]; pool != nil {
		compiled, _ := compile.Pool(pool)
		reserved, _ := inet.Parse(splitList(m.reserved()), inet.Bounds{})
		m.views[node] = compiled.IPs.Minus(reserved)
	}
}

// add gives a waiting pod an address of the agent's view, unless its block says no. It returns false without one.
func (m *manageModel) add(node string) bool {
	var pods corev1.PodList
	if err := m.c.List(m.t.Context(), &pods); err != nil {
		m.t.Fatal(err)
	}
	leased := m.leases()
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Spec.NodeName != node || leased[string(pod.UID)].Addr.IsValid() {
			continue
		}
		for base, mask := range m.views[node].Blocks() {
			object := &v2beta1.SpiderIPBlock{}
			object.Name = compile.BlockName(base)
			exists := m.c.Get(m.t.Context(), client.ObjectKeyFromObject(object), object) == nil
			block := lease.Block{Base: base, Node: node}
			if exists {
				block, _ = compile.StoredBlock(object)
			}
			for n := range inet.BlockSize {
				a := inet.BlockAddr(base, n)
				if l, taken := block.Lease(a); mask&(1<<n) == 0 || taken && l.State != lease.Released {
					continue
				}
				block = block.With(lease.Lease{
					Addr: a, State: lease.InUse, Pool: "aws-" + node + "-0-v4", Since: m.clock.Now(),
					Holder: lease.Holder{Pod: lease.ParsePodKey("default/" + pod.Name), PodUID: string(pod.UID), Node: node, Attachment: lease.Attachment{ContainerID: pod.Name, Interface: "eth0"}},
				})
				m.put(block, exists)
				return true
			}
		}
	}
	return false
}

func (m *manageModel) put(block lease.Block, exists bool) {
	object, err := compile.BlockObject(block), error(nil)
	if exists {
		err = m.c.Update(m.t.Context(), object)
	} else {
		err = m.c.Create(m.t.Context(), object)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// leases returns the leases in use by the UID of their pod.
func (m *manageModel) leases() map[string]lease.Lease {
	var blocks v2beta1.SpiderIPBlockList
	if err := m.c.List(m.t.Context(), &blocks); err != nil {
		m.t.Fatal(err)
	}
	leases := map[string]lease.Lease{}
	for i := range blocks.Items {
		block, _ := compile.StoredBlock(&blocks.Items[i])
		for _, l := range block.Leases {
			if l.State == lease.InUse {
				leases[l.PodUID] = l
			}
		}
	}
	return leases
}

// remove deletes some pods with their leases.
func (m *manageModel) remove(n int) {
	var pods corev1.PodList
	if err := m.c.List(m.t.Context(), &pods); err != nil {
		m.t.Fatal(err)
	}
	leases := m.leases()
	for i := range pods.Items[:min(n, len(pods.Items))] {
		pod := &pods.Items[i]
		if err := m.c.Delete(m.t.Context(), pod); err != nil {
			m.t.Fatal(err)
		}
		if l, ok := leases[string(pod.UID)]; ok {
			object := &v2beta1.SpiderIPBlock{}
			if err := m.c.Get(m.t.Context(), client.ObjectKey{Name: compile.BlockName(inet.BlockOf(l.Addr))}, object); err != nil {
				m.t.Fatal(err)
			}
			block, _ := compile.StoredBlock(object)
			block.Leases = slices.DeleteFunc(slices.Clone(block.Leases), func(have lease.Lease) bool { return have.Addr == l.Addr })
			m.put(block, true)
		}
	}
}

// check fails if the cloud does not route an address in use to its node.
func (m *manageModel) check() {
	for _, l := range m.leases() {
		routed := false
		for _, piece := range m.assigned(m.nodes[l.Node]) {
			routed = routed || piece.Contains(l.Addr)
		}
		if !routed {
			m.fatalf("pod %s on %s uses %s, and the cloud routes %v there", l.Pod, l.Node, l.Addr, m.assigned(m.nodes[l.Node]))
		}
	}
}

// fewChecks makes fewer histories in the hermetic tests. make chaos makes 300.
func fewChecks(t *testing.T, n int) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = checks.Value.Set(checks.DefValue) })
	}
}

// TestNoAddressIsLeasedAndUnassigned has pods come and go on two nodes, with agents that read late, a cloud that lies, throttles and
// loses answers, and a controller that dies at any step. In the end, everything works again, and nothing is left behind.
func TestNoAddressIsLeasedAndUnassigned(t *testing.T) {
	fewChecks(t, 8) // a run takes a second
	rapid.Check(t, func(rt *rapid.T) {
		m := newManageModel(t, rt)
		name := 0
		more := func(node string, pods int) {
			for range pods {
				name++
				m.create(waitingPod(node, fmt.Sprintf("web-%d", name)))
			}
		}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			node := rapid.SampledFrom([]string{"worker1", "worker2"}).Draw(rt, "node")
			switch rapid.SampledFrom([]string{"reconcile", "reconcile", "reconcile", "pods", "add", "sync", "remove", "freeze", "thaw", "throttle", "lose", "kill", "quiet"}).Draw(rt, "action") {
			case "reconcile":
				m.reconcileNow()
			case "pods":
				more(node, rapid.IntRange(1, 20).Draw(rt, "pods"))
			case "quiet": // the pieces of former pods go back, and the agent does not know
				more(node, 30)
				for range 4 {
					m.reconcileNow()
				}
				m.sync(node)
				m.remove(m.count())
				for range rapid.IntRange(3, 14).Draw(rt, "reconciles") {
					m.reconcileNow()
				}
				more(node, 30)
				for m.add(node) {
					m.check()
				}
			case "sync":
				m.sync(node)
			case "add":
				for range rapid.IntRange(1, 20).Draw(rt, "pods") {
					m.add(node)
				}
			case "remove":
				m.remove(rapid.IntRange(1, 40).Draw(rt, "pods"))
			case "freeze":
				m.cloud.Freeze()
				m.thaw = m.clock.Now().Add(callTimeout - 5*time.Second) // ADR 38: what the two answers rest on
			case "thaw":
				m.cloud.Thaw()
			case "throttle":
				m.cloud.Fail(cloudtest.Fault{Method: rapid.SampledFrom([]string{"Assign", "Unassign", "Instances"}).Draw(rt, "method"), Kind: cloud.Throttled})
			case "lose":
				m.cloud.Lose(rapid.SampledFrom([]string{"Assign", "Unassign"}).Draw(rt, "method"))
			case "kill":
				m.restart(rapid.IntRange(1, 5).Draw(rt, "steps left"))
			}
			m.check()
		}
		m.heal()
	})
}

// heal lets the ordered faults come to an end. Then all pods get addresses, and after their end, one prefix is left on each node.
func (m *manageModel) heal() {
	m.cloud.Thaw()
	m.restart(0)
	m.until(func() bool {
		for node := range m.nodes {
			m.sync(node)
			for m.add(node) {
				m.check()
			}
		}
		return len(m.leases()) == m.count() || m.count() > 100 // more than fit
	})
	m.remove(m.count())
	m.until(func() bool {
		for _, iface := range m.nodes {
			if len(m.assigned(iface)) != 1 {
				return false
			}
		}
		return m.reserved() == "" && len(m.network().Status.Changes) == 0
	})
	m.wantRouted(inet.Set{})
}

// until reconciles until the condition holds.
func (m *manageModel) until(holds func() bool) {
	for range 600 {
		if m.reconcileNow(); holds() {
			return
		}
	}
	m.fatalf("%d pods have %d addresses; the cloud assigned %v, the pools are %v, %s are withheld, %q reserved, and the status is %+v",
		m.count(), len(m.leases()), m.cloud.Present(), m.ips(), m.withheld(), m.reserved(), m.network().Status)
}

func (m *manageModel) count() int {
	var pods corev1.PodList
	if err := m.c.List(m.t.Context(), &pods); err != nil {
		m.t.Fatal(err)
	}
	return len(pods.Items)
}

func splitList(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ", ")
}
