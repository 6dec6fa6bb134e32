package withhold_test

import (
	"context"
	"fmt"
	"math/rand"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/lease"
)

// TestNoReturnedAddressIsGranted drives three agents that never hear of a change, and the
// controllers of two leaders. Calls fail before or after their writes, writes arrive late,
// processes end between two writes, and agents grant between two writes of a controller. A
// returned piece is out of reach of all of them until the cloud assigns it again.
func TestNoReturnedAddressIsGranted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.close()
		t.Repeat(map[string]func(*rapid.T){
			"grant":    func(*rapid.T) { m.grant() },
			"release":  func(*rapid.T) { m.release() },
			"restart":  func(*rapid.T) { m.restart() },
			"return":   func(*rapid.T) { m.giveBack() },
			"assign":   func(*rapid.T) { m.assign() },
			"look":     func(*rapid.T) { m.look() },
			"restore":  func(*rapid.T) { m.restore() },
			"arrive":   func(*rapid.T) { m.arrive() },
			"tidy":     func(*rapid.T) { m.tidy() },
			"tick":     func(*rapid.T) { m.now = m.now.Add(time.Second) },
			"together": func(*rapid.T) { m.together() },
			"":         func(*rapid.T) { m.check() },
		})
		m.end()
	})
}

var modelNodes = []string{"a", "b", "c"}

type model struct {
	t       *rapid.T
	store   *ipamtest.Store
	agents  map[string]*alloc.Allocator
	pieces  []withhold.Piece
	usable  inet.Set
	now     time.Time
	next    int
	looks   []look
	using   map[string]netip.Addr // by container
	ended   []string              // containers whose release has failed
	nested  bool                  // an agent acts between two steps of a controller
	returns []bool                // by piece: the cloud has it

	mu      sync.Mutex // guards what the writes of a batch use concurrently
	r       *rand.Rand
	calm    bool
	pending []lease.Block
}

// look is what a controller saw, and the addresses that it may free.
type look struct {
	seen  withhold.Withheld
	addrs inet.Set
}

func newModel(t *rapid.T) *model {
	m := &model{
		t: t, store: &ipamtest.Store{}, agents: map[string]*alloc.Allocator{}, now: start, using: map[string]netip.Addr{},
		r: rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))),
	}
	// One block, parts of two blocks, and two single addresses of one block.
	for _, ranges := range [][]string{{"10.0.0.0-10.0.0.15"}, {"10.0.0.24-10.0.0.39"}, {"10.0.0.41"}, {"10.0.0.43"}} {
		set, err := inet.Parse(ranges, inet.Bounds{})
		if err != nil {
			t.Fatal(err)
		}
		m.pieces = append(m.pieces, withhold.Piece{Network: "aws", Pool: "p", Addrs: set})
		m.usable = inet.Union(m.usable, set)
	}
	m.returns = make([]bool, len(m.pieces))
	for _, node := range modelNodes {
		m.start(node)
	}
	return m
}

func (m *model) start(node string) {
	m.agents[node] = newAgent(m.t, node, faulty{m.store, m, false}, m.usable)
}

func (m *model) close() {
	for _, a := range m.agents {
		a.Close()
	}
}

func (m *model) dice(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.r.Intn(n)
}

func (m *model) node() string { return modelNodes[m.dice(len(modelNodes))] }

// faulty loses reads, writes and answers. Agents act before the operations of a controller.
type faulty struct {
	*ipamtest.Store
	m          *model
	controller bool
}

// fault returns what happens to an operation: 0 its request is lost, 1 its answer.
func (f faulty) fault() int {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.calm {
		return -1
	}
	return f.m.r.Intn(12)
}

func (f faulty) before() {
	if f.controller && !f.m.calm && !f.m.nested && f.m.dice(3) == 0 {
		f.m.nested = true
		[]func(){f.m.grant, f.m.grant, f.m.release, f.m.arrive}[f.m.dice(4)]()
		f.m.nested = false
	}
}

func (f faulty) Get(ctx context.Context, base netip.Addr) (lease.Block, error) {
	f.before()
	if f.fault() == 0 {
		return lease.Block{}, ipamtest.ErrAway
	}
	return f.Store.Get(ctx, base)
}

func (f faulty) Put(ctx context.Context, b lease.Block) (string, error) {
	f.before()
	switch f.fault() {
	case 0: // late or never
		f.m.mu.Lock()
		defer f.m.mu.Unlock()
		f.m.pending = append(f.m.pending, b)
		return "", ipamtest.ErrAway
	case 1:
		_, _ = f.Store.Put(ctx, b)
		return "", ipamtest.ErrAway
	}
	return f.Store.Put(ctx, b)
}

// holder is a controller. It keeps nothing, so each of its calls may be that of another process.
func (m *model) holder() *withhold.Withholder {
	return withhold.New(faulty{m.store, m, true}, func() time.Time { return m.now }, discard)
}

func (m *model) grant() {
	node := m.node()
	m.next++
	container := fmt.Sprint(node, "-", m.next)
	addr, err := grant(m.agents[node], node, container)
	if err != nil {
		m.ended = append(m.ended, container) // the runtime deletes the sandbox
		return
	}
	m.using[container] = addr
	m.checkUse(container)
}

func (m *model) checkUse(container string) {
	addr := m.using[container]
	for i, p := range m.pieces {
		if m.returns[i] && p.Addrs.Contains(addr) {
			m.t.Fatalf("%s of %s belongs to the cloud", addr, container)
		}
	}
	for other, theirs := range m.using {
		if other != container && theirs == addr {
			m.t.Fatalf("%s belongs to %s and %s", addr, container, other)
		}
	}
}

// release ends a container, and repeats what has failed.
func (m *model) release() {
	containers := make([]string, 0, len(m.using))
	for container := range m.using {
		containers = append(containers, container)
	}
	slices.Sort(containers)
	if len(containers) > 0 {
		container := containers[m.dice(len(containers))]
		delete(m.using, container)
		m.ended = append(m.ended, container)
	}
	m.ended = slices.DeleteFunc(m.ended, func(container string) bool { return release(m.agents[container[:1]], container) == nil })
}

func (m *model) restart() {
	node := m.node()
	m.agents[node].Close()
	m.start(node)
}

// giveBack returns a piece to the cloud after its addresses are withheld.
func (m *model) giveBack() {
	i := m.dice(len(m.pieces))
	if m.returns[i] {
		return
	}
	holders, err := m.holder().Withhold(context.Background(), m.pieces[i])
	if m.returns[i] = err == nil && len(holders) == 0; m.returns[i] {
		for container := range m.using {
			m.checkUse(container)
		}
	}
}

// assign lets the cloud assign a piece again.
func (m *model) assign() { m.returns[m.dice(len(m.returns))] = false }

// look lists, and decides to free what the cloud does not have.
func (m *model) look() {
	all, err := m.holder().List(context.Background())
	if err != nil {
		return
	}
	var free inet.Set
	for i, p := range m.pieces {
		if !m.returns[i] {
			free = inet.Union(free, p.Addrs)
		}
	}
	for _, seen := range all {
		m.looks = append(m.looks, look{seen, free})
	}
}

// restore carries out a decision, however old.
func (m *model) restore() {
	if len(m.looks) > 0 {
		l := m.looks[m.dice(len(m.looks))]
		_ = m.holder().Restore(context.Background(), l.seen, l.addrs)
	}
}

// together lets all agents ask at the same time.
func (m *model) together() {
	var wg sync.WaitGroup
	addrs := make([]netip.Addr, len(modelNodes))
	for i, node := range modelNodes {
		wg.Go(func() { addrs[i], _ = grant(m.agents[node], node, fmt.Sprint(node, "-t", m.next)) })
	}
	wg.Wait()
	for i, node := range modelNodes {
		container := fmt.Sprint(node, "-t", m.next)
		if addrs[i].IsValid() {
			m.using[container] = addrs[i]
			m.checkUse(container)
		} else {
			m.ended = append(m.ended, container)
		}
	}
	m.next++
}

// arrive carries out, or drops, a write on its way.
func (m *model) arrive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pending) == 0 {
		return
	}
	i := m.r.Intn(len(m.pending))
	b := m.pending[i]
	m.pending = slices.Delete(m.pending, i, i+1)
	if m.r.Intn(4) > 0 {
		_, _ = m.store.Put(context.Background(), b)
	}
}

// tidy deletes the empty blocks.
func (m *model) tidy() {
	for _, b := range m.store.All() {
		if b.Removable(nil, m.now, 0) {
			_ = m.store.Delete(context.Background(), b)
		}
	}
}

func (m *model) check() {
	stored := map[netip.Addr]lease.Lease{}
	for _, b := range m.store.All() {
		for _, l := range b.Leases {
			stored[l.Addr] = l
		}
	}
	for i, p := range m.pieces {
		for base, mask := range p.Addrs.Blocks() {
			for k := range inet.BlockSize {
				addr := inet.BlockAddr(base, k)
				if m.returns[i] && mask&(1<<k) != 0 && stored[addr].State != lease.Withheld {
					m.t.Fatalf("the cloud has %s, and its lease is %+v", addr, stored[addr])
				}
			}
		}
	}
	for container, addr := range m.using {
		if l := stored[addr]; l.State != lease.InUse || l.ContainerID != container {
			m.t.Fatalf("%s uses %s, and its lease is %+v", container, addr, l)
		}
	}
}

// reclaim frees what late writes have granted to ended containers.
func (m *model) reclaim() {
	for _, b := range m.store.All() {
		for _, l := range b.Leases {
			if next, ok := b.Reclaim(l, m.now); ok && l.State == lease.InUse {
				b = next
			}
		}
		if _, err := m.store.Put(context.Background(), b); err != nil {
			m.t.Fatal(err)
		}
	}
}

// end lets everything come to rest: each piece can be returned, and comes back.
func (m *model) end() {
	m.calm, m.pending = true, nil
	for len(m.using)+len(m.ended) > 0 {
		m.release()
	}
	m.reclaim()
	m.check()
	clear(m.returns)
	m.looks = nil
	m.look()
	for _, l := range m.looks {
		if err := m.holder().Restore(context.Background(), l.seen, l.addrs); err != nil {
			m.t.Fatal(err)
		}
	}
	if all, err := m.holder().List(context.Background()); err != nil || len(all) > 0 {
		m.t.Fatalf("still withheld: %+v, %v", all, err)
	}
	for _, p := range m.pieces {
		if holders, err := m.holder().Withhold(context.Background(), p); err != nil || len(holders) > 0 {
			m.t.Fatalf("at rest, %s is held by %+v, %v", p.Addrs, holders, err)
		}
	}
	for _, node := range modelNodes {
		if addr, err := grant(m.agents[node], node, "last"); err == nil {
			m.t.Fatalf("%s granted %s", node, addr)
		}
	}
	m.looks = nil
	m.look()
	for _, l := range m.looks {
		if err := m.holder().Restore(context.Background(), l.seen, l.addrs); err != nil {
			m.t.Fatal(err)
		}
	}
	for _, node := range modelNodes {
		if addr, err := grant(m.agents[node], node, "first"); err != nil {
			m.t.Fatalf("%s grants nothing: %s, %v", node, addr, err)
		}
	}
}
