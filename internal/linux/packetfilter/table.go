package packetfilter

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// table is a table of one family in one namespace, and what we know of it.
type table struct {
	*socket
	layer layer
	// present is nil while there is no table of ours.
	present  *nftables.Table
	programs map[string]*program
	version  int // of the last name
	ids      uint32
	// made are the names of all tables of this process.
	made map[string]bool
	// swept means that no other table is left to remove.
	swept bool
	// partial means that sides may be missing yet, so the tables of former processes stay.
	partial bool
	// takeover says what differed in the table of a former process.
	takeover string
}

// program is a side in the kernel.
type program struct {
	side
	sets   [][parts]*nftables.Set // by list, nil for an empty part
	chains []*nftables.Chain      // by segment
	maps   []*nftables.Set        // by portProtocols, nil for a protocol without segments
}

// apply makes the sides those of a link in the table, and removes the tables of former processes. all returns the sides
// of all links. After an error, the kernel has the former or the wanted content.
func (t *table) apply(link string, sides []side, all func() []side) error {
	if t.present == nil || t.retargets(sides) || t.update(link, sides) != nil {
		// There is no table, or it has changed without us: a new one replaces it.
		t.leave()
		if every := all(); len(every) > 0 {
			if err := t.build(every); err != nil {
				t.leave()
				return err
			}
		}
	}
	if len(t.programs) == 0 {
		t.leave()
	}
	return t.sweepOthers()
}

// leave makes the present table one of those that the next sweep removes.
func (t *table) leave() {
	if t.present != nil {
		t.present, t.programs, t.swept = nil, nil, false
	}
}

// sweepOthers removes the tables of other processes, and our former ones.
func (t *table) sweepOthers() error {
	if t.swept {
		return nil
	}
	others, err := t.others(t.layer.family(), t.present)
	if err != nil {
		return err
	}
	if t.partial {
		others = slices.DeleteFunc(others, func(o *nftables.Table) bool { return !t.made[o.Name] })
	}
	for _, o := range others {
		if !t.made[o.Name] && t.takeover == "" {
			t.takeover = t.compare(o)
		}
	}
	held, err := t.sweep(others)
	t.swept = err == nil && held == 0
	if held > 0 {
		t.takeover = "another process owns a table of policies; both tables are in effect until it ends"
	}
	return err
}

// retargets reports whether an entry leads to another side now. The map cannot change it without a moment in which it
// leads nowhere, so a new table has to.
func (t *table) retargets(sides []side) bool {
	now := map[entry]string{}
	for _, p := range t.programs {
		for _, e := range p.entries {
			now[e] = p.name
		}
	}
	for i := range sides {
		s := &sides[i]
		for _, e := range s.entries {
			if name, ok := now[e]; ok && name != s.name {
				return true
			}
		}
		if p, ok := t.programs[s.name]; ok && p.index != s.index {
			return true // another interface of the same name
		}
	}
	return false
}

// build makes a table with the sides. The first transaction makes it ours.
func (t *table) build(sides []side) (err error) {
	if t.present, err = t.newTable(t.layer.family()); err != nil {
		return err
	}
	if t.made == nil {
		t.made = map[string]bool{}
	}
	t.made[t.present.Name] = true
	t.programs = map[string]*program{}
	b := &batch{table: t}
	t.layer.base(b)
	for i := range sides {
		b.create(&sides[i])
	}
	return b.commit()
}

// update changes the sides of a link.
func (t *table) update(link string, sides []side) error {
	b := &batch{table: t}
	gone := maps.Clone(t.programs)
	maps.DeleteFunc(gone, func(_ string, p *program) bool { return p.drops.Link != link })
	for i := range sides {
		s := &sides[i]
		p := t.programs[s.name]
		delete(gone, s.name)
		switch {
		case p == nil:
			b.create(s)
		case p.sameShape(s):
			b.change(p, s)
		default:
			b.replace(p, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		b.remove(gone[name])
	}
	return b.commit()
}

// drops reads the counters.
func (t *table) drops() (all []Drops, err error) {
	if t.present == nil {
		return nil, nil
	}
	packets, err := t.counters(t.present)
	if err != nil {
		return nil, err
	}
	for name, p := range t.programs {
		if n, ok := packets[name]; ok {
			one := p.side.drops
			one.Packets = n
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b Drops) int { return strings.Compare(a.key(), b.key()) })
	return all, nil
}

// batch is a change of a table in up to three transactions. The first one adds what no rule uses yet, because a new tree
// shows its elements a moment behind its transaction. The second one switches rules. The third one deletes, because
// packets may still be in the former rules.
type batch struct {
	*table
	first    bool // the first transaction has a message
	switches []func()
	later    []func()
	err      error
}

func (b *batch) commit() error {
	if err := b.flushAll(nil); err != nil {
		return err
	}
	if err := b.flushAll(b.switches); err != nil {
		return err
	}
	if len(b.later) > 0 && (b.first || len(b.switches) > 0) {
		awaitPackets()
	}
	return b.flushAll(b.later)
}

// flushAll commits the messages so far and those of more.
func (b *batch) flushAll(more []func()) error {
	for _, f := range more {
		f()
	}
	if b.err != nil {
		return errors.Join(b.err, b.abandon())
	}
	return b.flush()
}

// abandon drops the messages of the transaction, which the library keeps until a flush: a table with an empty name is
// invalid, so the kernel refuses all of them.
func (b *batch) abandon() error {
	b.conn.DelTable(&nftables.Table{Family: b.layer.family()})
	if err := b.flush(); err == nil {
		return errors.New("the kernel accepted a part of a transaction")
	}
	return nil
}

func (b *batch) fail(err error) { b.err = errors.Join(b.err, err) }

// unique returns a name for a new set, map or chain, e.g. "eth0-egress-any-4.17".
func (b *batch) unique(name string) string {
	b.version++
	return versioned(name, b.version)
}

func (b *batch) addSet(s *nftables.Set) *nftables.Set {
	b.first = true
	b.ids++
	s.ID = b.ids
	b.fail(b.conn.AddSet(s, nil))
	return s
}

// perMessage is the number of elements in one message: a list of elements has a length of 16 bits.
const perMessage = 500

func (b *batch) addElements(s *nftables.Set, all []nftables.SetElement) {
	b.first = b.first || len(all) > 0
	for some := range slices.Chunk(all, perMessage) {
		b.fail(b.conn.SetAddElements(s, some))
	}
}

func (b *batch) deleteElements(s *nftables.Set, all []nftables.SetElement) {
	for some := range slices.Chunk(all, perMessage) {
		b.fail(b.conn.SetDeleteElements(s, some))
	}
}

// addRules adds rules to a new chain.
func (b *batch) addRules(c *nftables.Chain, rules [][]expr.Any) {
	b.first = b.first || len(rules) > 0
	for _, exprs := range rules {
		b.conn.AddRule(&nftables.Rule{Table: b.present, Chain: c, Exprs: exprs})
	}
}

// switchRules replaces the rules of a chain in use. A packet sees the former or the next ones.
func (b *batch) switchRules(c *nftables.Chain, rules [][]expr.Any) {
	b.switches = append(b.switches, func() {
		b.conn.FlushChain(c)
		b.addRules(c, rules)
	})
}
