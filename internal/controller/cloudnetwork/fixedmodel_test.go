package cloudnetwork

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// fixedModel has pods of a StatefulSet that come and go on two nodes, agents that start a pod when its address is placed, and a controller
// that may die, be paused, and see old objects.
type fixedModel struct {
	*bench
	random *rand.Rand
	nodes  map[string]string // interfaces by node
	pods   map[string]*fixedPod
	next   time.Duration
	thaw   time.Time
	mortal *mortal
	late   *lateCloud
	old    map[string]client.ObjectList // what the cache of the controller still shows, by kind
	uid    int
	fatalf func(format string, args ...any)
}

type fixedPod struct {
	ip, uid, node string
	running       bool
}

// lateCloud loses the answers of calls, and makes some of them later: at most callTimeout after the controller has written them down.
type lateCloud struct {
	cloud.Provider
	m       *fixedModel
	lose    int // the next calls
	pending []lateCall
}

type lateCall struct {
	at   time.Time
	make func()
}

var errLost = &cloud.Error{Kind: cloud.Unknown, Action: "test", Err: fmt.Errorf("no answer")}

func (l *lateCloud) later(do func()) error {
	l.lose--
	l.pending = append(l.pending, lateCall{l.m.clock.Now().Add(time.Duration(l.m.random.Int64N(int64(callTimeout)))), do})
	return errLost
}

func (l *lateCloud) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	if l.lose > 0 {
		return nil, l.later(func() { _, _ = l.Provider.Assign(context.Background(), a) })
	}
	return l.Provider.Assign(ctx, a)
}

func (l *lateCloud) Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	if l.lose > 0 {
		return l.later(func() { _ = l.Provider.Unassign(context.Background(), iface, pieces) })
	}
	return l.Provider.Unassign(ctx, iface, pieces)
}

// arrive makes the late calls whose time has come.
func (l *lateCloud) arrive() {
	l.pending = slices.DeleteFunc(l.pending, func(c lateCall) bool {
		if due := !l.m.clock.Now().Before(c.at); due {
			c.make()
			return true
		}
		return false
	})
}

func newFixedModel(t *testing.T, rt *rapid.T, family string) *fixedModel {
	m := &fixedModel{random: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), nodes: map[string]string{}, pods: map[string]*fixedPod{}, fatalf: rt.Fatalf}
	eni1, eni2 := "", ""
	m.bench, eni1, eni2 = newFixedBench(t, "2406:da1e:c4:ed02:0:1::10-2406:da1e:c4:ed02:0:1::1f")
	m.nodes["worker1"], m.nodes["worker2"] = eni1, eni2
	for i := range 3 {
		ip := fmt.Sprintf("172.31.32.%d", 192+i)
		if family == "IPv6" {
			ip = fmt.Sprintf("2406:da1e:c4:ed02:0:1:0:1%d", i)
		}
		m.pods[fmt.Sprintf("db-%d", i)] = &fixedPod{ip: ip}
	}
	m.late = &lateCloud{Provider: m.cloud, m: m}
	m.begin(0)
	return m
}

// begin starts a controller that dies after some steps; never for 0. Its cache may show old objects, other than its live reads.
func (m *fixedModel) begin(steps int) {
	m.mortal = &mortal{Provider: m.late, steps: steps, lost: m.random.IntN(2) == 0}
	stale := interceptor.NewClient(m.c, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if old, ok := m.old[fmt.Sprintf("%T", list)]; ok {
			switch l := list.(type) {
			case *v2beta1.SpiderIPBlockList:
				old.(*v2beta1.SpiderIPBlockList).DeepCopyInto(l)
			case *v2beta1.SpiderIPPoolList:
				old.(*v2beta1.SpiderIPPoolList).DeepCopyInto(l)
			}
			return nil
		}
		return c.List(ctx, list, options...)
	}})
	m.start(m.mortal.client(stale), m.mortal)
	m.r.Live = m.c
	m.r.jitter = func(limit time.Duration) time.Duration { return time.Duration(m.random.Int64N(int64(limit))) }
	m.next = 0
}

// age makes the cache of the controller show the present objects from now on.
func (m *fixedModel) age() {
	m.old = map[string]client.ObjectList{}
	for _, list := range []client.ObjectList{&v2beta1.SpiderIPBlockList{}, &v2beta1.SpiderIPPoolList{}} {
		if m.random.IntN(2) == 0 {
			if err := m.c.List(m.t.Context(), list); err != nil {
				m.t.Fatal(err)
			}
			m.old[fmt.Sprintf("%T", list)] = list
		}
	}
}

func (m *fixedModel) reconcileNow() {
	m.clock.SetTime(m.clock.Now().Add(min(m.next, 10*time.Second)))
	if m.clock.Now().After(m.thaw) {
		m.cloud.Thaw()
	}
	m.late.arrive()
	m.check("a late call")
	next, err := m.reconcile()
	if m.next = next; err != nil {
		m.next = 100 * time.Millisecond
	}
	if m.mortal.dead {
		m.begin(0)
	}
	m.run()
}

// run starts the pods whose address is placed, as an agent does.
func (m *fixedModel) run() {
	for _, p := range m.pods {
		if p.uid != "" && m.placement(p.ip).PodUID == p.uid {
			p.running = true
		}
	}
}

// replace ends a pod, and lets its successor come to a node. forced leaves no retained lease in between.
func (m *fixedModel) replace(name, node string, forced bool) {
	p := m.pods[name]
	if !forced && p.uid != "" {
		m.lease(p.ip, lease.Retained, name, p.uid, p.node)
	}
	m.uid++
	*p = fixedPod{ip: p.ip, uid: fmt.Sprintf("uid-%d", m.uid), node: node}
	m.lease(p.ip, lease.InUse, name, p.uid, node)
}

func (m *fixedModel) end(name string, state lease.State) {
	p := m.pods[name]
	m.lease(p.ip, state, name, p.uid, p.node)
	*p = fixedPod{ip: p.ip}
}

// check fails if a running pod has no network.
func (m *fixedModel) check(after string) {
	for name, p := range m.pods {
		if p.running && !slices.Equal(m.at(p.ip), []string{m.nodes[p.node]}) {
			m.fatalf("after %s: pod %s (%s) runs on %s (%s), and its address %s is on %v", after, name, p.uid, p.node, m.nodes[p.node], p.ip, m.at(p.ip))
		}
	}
}

// TestRunningPodKeepsItsAddress has pods of a StatefulSet come, go and be forced away, with a cloud that lies, throttles, loses answers
// and acts late, and a controller that dies at any step and sees old objects. In the end, all pods run.
func TestRunningPodKeepsItsAddress(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) { fewChecks(t, 12); rapid.Check(t, func(rt *rapid.T) { playFixed(t, rt, family) }) })
	}
}

func playFixed(t *testing.T, rt *rapid.T, family string) {
	m := newFixedModel(t, rt, family)
	for range rapid.IntRange(10, 80).Draw(rt, "steps") {
		pod := fmt.Sprintf("db-%d", rapid.IntRange(0, 2).Draw(rt, "pod"))
		node := rapid.SampledFrom([]string{"worker1", "worker2"}).Draw(rt, "node")
		action := rapid.SampledFrom([]string{"reconcile", "reconcile", "reconcile", "reconcile", "replace", "force", "retain", "release", "freeze", "throttle", "lose", "late", "kill", "restart", "age", "fresh", "wait"}).Draw(rt, "action")
		switch action {
		case "reconcile":
			m.reconcileNow()
		case "replace", "force":
			m.replace(pod, node, action == "force")
		case "retain":
			if m.pods[pod].uid != "" {
				m.end(pod, lease.Retained)
			}
		case "release":
			m.end(pod, lease.Released)
		case "freeze":
			m.cloud.Freeze()
			m.thaw = m.clock.Now().Add(callTimeout - 5*time.Second)
		case "throttle":
			m.cloud.Fail(cloudtest.Fault{Method: rapid.SampledFrom([]string{"Assign", "Unassign", "Instances"}).Draw(rt, "method"), Kind: cloud.Throttled})
		case "lose":
			m.cloud.Lose(rapid.SampledFrom([]string{"Assign", "Unassign"}).Draw(rt, "method"))
		case "late":
			m.late.lose = 1
		case "kill":
			m.begin(rapid.IntRange(1, 6).Draw(rt, "steps left"))
		case "restart":
			m.begin(0)
		case "age":
			m.age()
		case "fresh":
			m.old = nil
		case "wait":
			for range 8 {
				m.next = 10 * time.Second
				m.reconcileNow()
			}
		}
		m.check(action)
	}
	m.heal()
}

// heal lets the faults end. Then all pods start, and the addresses of former ones leave.
func (m *fixedModel) heal() {
	m.cloud.Thaw()
	m.old, m.late.lose = nil, 0
	m.begin(0)
	for name, p := range m.pods {
		if p.uid == "" {
			m.replace(name, "worker1", false)
		}
	}
	m.until("all pods run", func() bool {
		return !slices.ContainsFunc([]string{"db-0", "db-1", "db-2"}, func(name string) bool { return !m.pods[name].running })
	})
	for name := range m.pods {
		m.end(name, lease.Released)
	}
	m.until("no address is left", func() bool {
		left := len(m.network().Status.Changes)
		for _, p := range m.pods {
			left += len(m.at(p.ip))
			if m.placement(p.ip).IP != "" {
				left++
			}
		}
		return left == 0
	})
}

func (m *fixedModel) until(what string, holds func() bool) {
	for range 300 {
		m.reconcileNow()
		m.check("healing")
		if holds() {
			return
		}
	}
	var texts []string
	for name, p := range m.pods {
		texts = append(texts, fmt.Sprintf("%s: %+v at %v, placement %+v", name, *p, m.at(p.ip), m.placement(p.ip)))
	}
	m.fatalf("it never comes that %s: %s; the status is %+v", what, strings.Join(texts, "; "), m.network().Status)
}
