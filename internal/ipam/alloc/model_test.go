package alloc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// modelPod is a sandbox of the model.
type modelPod struct {
	node, container string
	addrs           []netip.Addr // what the last successful ADD said; nil: none
}

// TestModel drives two nodes at random, also at the same time, against a store that
// fails, loses answers and conflicts and that others write to, with restarts and
// reservations in between. It checks after every step that no address has two
// holders, that every granted address stays its holder's, and that none is granted
// that is reserved.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.close()
		t.Repeat(map[string]func(*rapid.T){
			"add":      func(t *rapid.T) { m.do(t, m.add(t)) },
			"delete":   func(t *rapid.T) { m.do(t, m.delete(t)) },
			"lose":     m.lose,
			"reclaim":  func(t *rapid.T) { m.do(t, m.reclaim(t)) },
			"reserve":  func(t *rapid.T) { m.do(t, m.reserve(t)) },
			"together": m.together,
			"restart":  m.restart,
			"faults":   m.faults,
			"":         m.check,
		})
		m.drain()
	})
}

type model struct {
	t          *rapid.T
	store      *ipamtest.Store
	pools      []*pool.Pool
	allocators map[string]*alloc.Allocator
	reserved   map[string]inet.Set // as the nodes know it
	pods       map[string]*modelPod
	lost       []string                    // containers that are gone without a DEL
	journal    map[lease.Attachment]string // to release, with the node
	failing    atomic.Int64                // per cent of the operations
	random     func() int64
	next       int
}

// operation is a step that can be taken at the same time as others.
type operation struct {
	container string         // that it is about, "" for none
	run       func()         // does it
	settle    func(*rapid.T) // takes note of what came of it; nil: nothing to note
	end       func()         // is called when all that ran have settled; nil: nothing to do
}

// do takes the steps at the same time.
func (m *model) do(t *rapid.T, steps ...operation) {
	var wg sync.WaitGroup
	for _, step := range steps {
		wg.Go(step.run)
	}
	wg.Wait()
	for _, step := range steps {
		if step.settle != nil {
			step.settle(t)
		}
	}
	for _, step := range steps {
		if step.end != nil {
			step.end()
		}
	}
}

func (m *model) together(t *rapid.T) {
	draw := map[string]func(*rapid.T) operation{"add": m.add, "delete": m.delete, "reclaim": m.reclaim}
	var steps []operation
	for range rapid.IntRange(2, 6).Draw(t, "steps") {
		step := draw[rapid.SampledFrom([]string{"add", "add", "add", "delete", "reclaim"}).Draw(t, "step")](t)
		// The runtime does one thing at a time with a sandbox.
		if step.container == "" || !slices.ContainsFunc(steps, func(other operation) bool { return other.container == step.container }) {
			steps = append(steps, step)
		}
	}
	if rapid.Bool().Draw(t, "reserving") {
		steps = append(steps, m.reserve(t))
	}
	m.do(t, steps...)
}

var modelNodes = []string{"a", "b"}

func newModel(t *rapid.T) *model {
	m := &model{t: t, store: &ipamtest.Store{}, allocators: map[string]*alloc.Allocator{}, reserved: map[string]inet.Set{}, pods: map[string]*modelPod{}, journal: map[lease.Attachment]string{}}
	size := rapid.IntRange(1, 40).Draw(t, "size")
	v4, _ := inet.Parse([]string{fmt.Sprintf("10.0.0.5-10.0.0.%d", 5+size-1)}, inet.Bounds{})
	v6, _ := inet.Parse([]string{fmt.Sprintf("fd00::1-fd00::%x", size+3)}, inet.Bounds{})
	m.pools = []*pool.Pool{
		{Name: "v4", Family: 4, Subnet: netip.MustParsePrefix("10.0.0.0/16"), IPs: v4},
		{Name: "v6", Family: 6, Subnet: netip.MustParsePrefix("fd00::/64"), IPs: v6},
	}
	// Writes of a batch are concurrent, so faults are drawn ahead, not in the store.
	var faults atomic.Uint64
	m.random = func() int64 { return int64((faults.Add(0x9E3779B97F4A7C15) * 0xD1342543DE82EF95) >> 32 % 100) }
	faults.Store(rapid.Uint64().Draw(t, "seed"))
	m.store.Before = func(string, netip.Addr) error {
		if m.random() < m.failing.Load() {
			return errors.New("unavailable")
		}
		return nil
	}
	m.store.After = func(netip.Addr) error {
		if m.random() < m.failing.Load() {
			return errors.New("answer lost")
		}
		return nil
	}
	for _, node := range modelNodes {
		m.start(node)
	}
	return m
}

func (m *model) start(node string) {
	a := alloc.New(alloc.Config{Node: node, Blocks: m.store, Older: m.store.Older, Now: time.Now,
		Log: slog.New(slog.DiscardHandler), Observer: &conflicts{}, ReuseAfter: -1, SearchEvery: -1})
	m.setReserved(a, m.reserved[node])
	for a.Load(context.Background()) != nil {
	}
	m.allocators[node] = a
}

func (m *model) setReserved(a *alloc.Allocator, reserved inet.Set) {
	for _, p := range m.pools {
		a.SetUsable(p.Name, p.Usable(reserved))
	}
}

func (m *model) close() {
	for _, a := range m.allocators {
		a.Close()
	}
}

func (m *model) add(t *rapid.T) operation {
	node := rapid.SampledFrom(modelNodes).Draw(t, "node")
	container := fmt.Sprintf("c%d", m.next)
	if again := rapid.Bool().Draw(t, "again"); again && len(m.pods) > 0 {
		container = rapid.SampledFrom(sortedKeys(m.pods)).Draw(t, "container")
		node = m.pods[container].node
	} else {
		m.next++
		m.pods[container] = &modelPod{node: node, container: container}
	}
	pod := m.pods[container]
	var grants []lease.Grant
	var err error
	return operation{
		container: container,
		run: func() {
			grants, err = allocate(context.Background(), m.allocators[node], request(node, container, want("eth0", 4, "v4"), want("eth0", 6, "v6")))
		},
		settle: func(t *rapid.T) {
			if err != nil {
				return
			}
			addrs := []netip.Addr{grants[0].Addr, grants[1].Addr}
			if pod.addrs != nil && !slices.Equal(pod.addrs, addrs) {
				t.Fatalf("%s had %v and got %v when it asked again", container, pod.addrs, addrs)
			}
			for _, g := range grants {
				if !g.Held && m.reserved[node].Contains(g.Addr) {
					t.Fatalf("%s was given %s, which is reserved", container, g.Addr)
				}
			}
			pod.addrs = addrs
		},
	}
}

func (m *model) delete(t *rapid.T) operation {
	if len(m.pods) == 0 {
		return operation{run: func() {}}
	}
	container := rapid.SampledFrom(sortedKeys(m.pods)).Draw(t, "container")
	node := m.pods[container].node
	at := lease.Attachment{ContainerID: container, Interface: "eth0"}
	var err error
	return operation{
		container: container,
		run:       func() { err = m.allocators[node].Release(context.Background(), at) },
		settle: func(*rapid.T) {
			delete(m.pods, container)
			if err != nil {
				m.journal[at] = node
			}
		},
	}
}

// lose ends a sandbox without a DEL.
func (m *model) lose(t *rapid.T) {
	if len(m.pods) == 0 {
		return
	}
	container := rapid.SampledFrom(sortedKeys(m.pods)).Draw(t, "container")
	m.lost = append(m.lost, container)
	m.journal[lease.Attachment{ContainerID: container, Interface: "eth0"}] = m.pods[container].node
	delete(m.pods, container)
}

// reclaim takes back what a lost sandbox had, as the controller does, which no node
// is told of.
func (m *model) reclaim(t *rapid.T) operation {
	if len(m.lost) == 0 {
		return operation{run: func() {}}
	}
	container := rapid.SampledFrom(m.lost).Draw(t, "lost")
	return operation{run: func() {
		for _, p := range m.pools {
			for base := range p.IPs.Blocks() {
				b, err := m.store.Get(context.Background(), base)
				if err != nil {
					continue // it is tried again
				}
				i := slices.IndexFunc(b.Leases, func(l lease.Lease) bool { return l.ContainerID == container })
				if i < 0 {
					continue
				}
				if swept, ok := b.Reclaim(b.Leases[i], time.Now()); ok {
					_, _ = m.store.Put(context.Background(), swept) // likewise
				}
			}
		}
	}}
}

// reserve lets a node hear of other reserved addresses.
func (m *model) reserve(t *rapid.T) operation {
	node := rapid.SampledFrom(modelNodes).Draw(t, "node")
	var sets []inet.Set
	for _, p := range m.pools {
		addrs := addrsOf(p.IPs)
		sets = append(sets, inet.OfAddrs(rapid.SliceOfN(rapid.SampledFrom(addrs), 0, len(addrs)).Draw(t, "reserved")...))
	}
	reserved := inet.Union(sets...)
	// What is given meanwhile may go by the former ones.
	m.reserved[node] = m.reserved[node].And(reserved)
	return operation{
		run: func() { m.setReserved(m.allocators[node], reserved) },
		end: func() { m.reserved[node] = reserved },
	}
}

func (m *model) restart(t *rapid.T) {
	node := rapid.SampledFrom(modelNodes).Draw(t, "node")
	m.allocators[node].Close()
	m.start(node)
}

func (m *model) faults(t *rapid.T) {
	m.failing.Store(rapid.SampledFrom([]int64{0, 0, 10, 50}).Draw(t, "failing"))
}

func (m *model) check(t *rapid.T) {
	failing := m.failing.Swap(0)
	defer m.failing.Store(failing)
	leases := map[netip.Addr]lease.Lease{}
	for _, b := range m.store.All() {
		for _, l := range b.Leases {
			if l.State == lease.InUse {
				leases[l.Addr] = l
				if !slices.ContainsFunc(m.pools, func(p *pool.Pool) bool { return p.Name == l.Pool && p.IPs.Contains(l.Addr) }) {
					t.Fatalf("%s is not in pool %s", l.Addr, l.Pool)
				}
			}
		}
	}
	for container, pod := range m.pods {
		for _, addr := range pod.addrs {
			if leases[addr].ContainerID != container {
				t.Fatalf("%s was given to %s and is leased to %q", addr, container, leases[addr].ContainerID)
			}
		}
	}
}

// drain releases everything, as kubelet does when it deletes all pods, and the
// journal does when the store is back. Nothing may be left.
func (m *model) drain() {
	m.failing.Store(0)
	for container, pod := range m.pods {
		m.journal[lease.Attachment{ContainerID: container, Interface: "eth0"}] = pod.node
	}
	for at, node := range m.journal {
		if err := m.allocators[node].Release(context.Background(), at); err != nil {
			m.t.Fatalf("release of %v: %v", at, err)
		}
	}
	for _, b := range m.store.All() {
		for _, l := range b.Leases {
			if l.State == lease.InUse {
				m.t.Fatalf("leaked: %+v", l)
			}
		}
	}
}

func sortedKeys(pods map[string]*modelPod) []string {
	keys := make([]string, 0, len(pods))
	for k := range pods {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// addrsOf returns the addresses of a small set in order.
func addrsOf(s inet.Set) []netip.Addr {
	var addrs []netip.Addr
	for _, r := range s.Ranges() {
		for a := r.From(); a.Compare(r.To()) <= 0; a = a.Next() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
