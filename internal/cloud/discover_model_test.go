package cloud

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
)

// model is a cloud of two instances in one subnet, whose answers may be old, with a
// cluster that applies each plan.
type model struct {
	d         Discovery
	truth     [2][]netip.Prefix
	past      [][2][]netip.Prefix // former truths, the last one at the end
	histories [2]History
}

// piece n of the subnet 10.0.0.0/24 is one of 16 aligned ranges.
func modelPiece(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n * 16)}), 28)
}

func newModel() *model {
	m := &model{d: Discovery{
		Network: "n", Devices: []int{0}, Families: []inet.Family{inet.IPv4}, Now: start,
		Subnets: map[string]Subnet{"s": {ID: "s", CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}},
	}}
	m.d.Others = inet.OfPrefix(modelPiece(15))
	return m
}

// change moves a random piece to an interface, or to none.
func (m *model) change(t *rapid.T) {
	m.past = append(m.past, m.truth)
	piece, to := modelPiece(rapid.IntRange(0, 15).Draw(t, "piece")), rapid.IntRange(-1, 1).Draw(t, "to")
	for i := range m.truth {
		var kept []netip.Prefix
		for _, p := range m.truth[i] {
			if p != piece {
				kept = append(kept, p)
			}
		}
		if i == to {
			kept = append(kept, piece)
		}
		m.truth[i] = kept
	}
}

// ask adds an answer about each instance: the truth, or with old the truth before the last change.
func (m *model) ask(old bool) {
	seen := m.truth
	if old && len(m.past) > 0 {
		seen = m.past[len(m.past)-1]
	}
	m.d.Members = nil
	for i := range seen {
		name := fmt.Sprint("i-", i)
		answer := Answer{At: m.d.Now, Instance: &Instance{ID: name, Interfaces: []Interface{{
			ID: fmt.Sprint("eni-", i), Subnet: "s", Assigned: seen[i], Primary: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(4 + i)})},
		}}}}
		m.histories[i] = m.histories[i].Add(answer)
		m.d.Members = append(m.d.Members, Member{Node: fmt.Sprint("node-", i), Answers: m.histories[i]})
	}
}

// lease gives a usable address of a pool to a pod, or takes one back.
func (m *model) lease(t *rapid.T) {
	addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, "addr"))})
	for i := range m.d.Pools {
		p := &m.d.Pools[i]
		switch set := inet.OfAddrs(addr); {
		case p.Leased.Contains(addr):
			p.Leased = p.Leased.Minus(set)
		case p.IPs.Contains(addr) && !p.Deleting && !m.d.Reserved.Contains(addr):
			p.Leased = inet.Union(p.Leased, set)
		}
	}
}

// plan plans, checks the plan and applies it.
func (m *model) plan(t *rapid.T) {
	plan := Discover(m.d)
	seen := inet.Union(m.d.Others)
	for _, p := range plan.Pools {
		if p.IPs.Overlaps(seen) {
			t.Fatalf("pool %s shares %s with another one", p.Name, p.IPs.And(seen))
		}
		seen = inet.Union(seen, p.IPs)
		for _, own := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.255"} {
			// The primary address of another instance is no piece of this one.
			if a := netip.MustParseAddr(own); p.IPs.Contains(a) && !(own == "10.0.0.4" && p.Node == "node-1") && !(own == "10.0.0.5" && p.Node == "node-0") {
				t.Fatalf("pool %s has %s", p.Name, own)
			}
		}
	}
	for _, former := range m.d.Pools {
		for _, p := range plan.Pools {
			if p.Name != former.Name {
				continue
			}
			lost := former.IPs.Minus(p.IPs)
			if lost.Overlaps(former.Leased) {
				t.Fatalf("pool %s lost %s, which are in use", p.Name, lost.And(former.Leased))
			}
			if !m.d.Reserved.ContainsSet(lost) || !m.d.Settled && !lost.IsEmpty() {
				t.Fatalf("pool %s lost %s, which were not reserved for long", p.Name, lost)
			}
		}
	}
	m.checkReserved(t, plan)
	m.d = applied(m.d, plan)
}

// checkReserved fails if a reservation ends before the agents know the pool without its
// addresses, unless they came back to that pool.
func (m *model) checkReserved(t *rapid.T, plan Plan) {
	ended := m.d.Reserved.Minus(plan.Reserved)
	for _, former := range m.d.Pools {
		kept := inet.Set{}
		for _, p := range plan.Pools {
			if p.Name == former.Name {
				kept = former.IPs.And(p.IPs)
			}
		}
		if lost := former.IPs.Minus(kept); lost.Overlaps(ended) && !former.Deleting {
			t.Fatalf("the reservation of %s ends with the plan that takes them out of pool %s", lost.And(ended), former.Name)
		}
		ended = ended.Minus(kept)
	}
	if !m.d.Settled && !ended.IsEmpty() {
		t.Fatalf("the reservation of %s ends before the agents know the pools", ended)
	}
}

// TestPoolsConvergeToTruth changes the cloud at random, lets it answer with the past, and
// plans at any time. In the end, the pools equal the cloud.
func TestPoolsConvergeToTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		t.Repeat(map[string]func(*rapid.T){
			"change": m.change,
			"ask":    func(t *rapid.T) { m.ask(rapid.Bool().Draw(t, "old")) },
			"wait": func(t *rapid.T) {
				m.d.Now = m.d.Now.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "seconds")) * time.Second)
			},
			"lease": m.lease,
			"plan": func(t *rapid.T) {
				m.d.Settled = rapid.Bool().Draw(t, "settled")
				m.plan(t)
			},
		})
		for i := range m.d.Pools {
			m.d.Pools[i].Leased = inet.Set{}
		}
		m.d.Settled = true
		for range 8 {
			m.d.Now = m.d.Now.Add(Apart)
			m.ask(false)
			m.plan(t)
		}
		m.checkEqual(t)
	})
}

// checkEqual fails if the pools differ from the cloud, or if another plan changes anything.
func (m *model) checkEqual(t *rapid.T) {
	if !m.d.Reserved.IsEmpty() {
		t.Fatalf("%s are still reserved", m.d.Reserved)
	}
	have := map[string]inet.Set{}
	for _, p := range m.d.Pools {
		have[p.Name] = p.IPs
	}
	for i, pieces := range m.truth {
		want := usable(Interface{Assigned: pieces, Primary: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(4 + i)})}},
			netip.MustParsePrefix("10.0.0.0/24"), RouterFirst, inet.OfPrefix).Minus(m.d.Others)
		if got := have[fmt.Sprintf("n-node-%d-0-v4", i)]; !got.Equal(want) {
			t.Fatalf("pool of node-%d has %s, want %s", i, got, want)
		}
	}
	plan := Discover(m.d)
	if next := applied(m.d, plan); len(plan.Delete) > 0 || len(next.Pools) != len(m.d.Pools) {
		t.Fatalf("another plan changes the pools: %+v", plan)
	}
}
