package history_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/test/history"
)

var (
	one = netip.MustParseAddr("192.0.2.1")
	two = netip.MustParseAddr("2001:db8::2")
)

// at returns an instant in milliseconds of the test's own time.
func at(ms int) time.Time { return time.UnixMilli(int64(ms)) }

func eth0(container string) history.Interface {
	return history.Interface{ContainerID: container, Name: "eth0"}
}

func add(container string, from, to int, addrs ...netip.Addr) history.Event {
	return history.Event{Kind: history.Add, Interface: eth0(container), Start: at(from), End: at(to), Addresses: addrs}
}

func del(container string, from, to int) history.Event {
	return history.Event{Kind: history.Del, Interface: eth0(container), Start: at(from), End: at(to)}
}

func check(container string, from, to int) history.Event {
	return history.Event{Kind: history.CheckCall, Interface: eth0(container), Start: at(from), End: at(to)}
}

func lost(container string, when int) history.Event {
	return history.Event{Kind: history.Lost, Interface: eth0(container), Start: at(when), End: at(when)}
}

func failed(e history.Event) history.Event {
	e.Addresses, e.Error = nil, "CNI code 11"
	return e
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		events []history.Event
		want   []string // prefixes of the violations
	}{
		"one after the other": {
			events: []history.Event{add("a", 0, 10, one), del("a", 20, 30), add("b", 40, 50, one)},
		},
		"reused before the DEL returned": {
			events: []history.Event{add("a", 0, 10, one), del("a", 20, 60), add("b", 30, 50, one)},
		},
		"asked for before the DEL, answered after it began": {
			events: []history.Event{add("a", 0, 10, one), add("b", 5, 25, one), del("a", 20, 60)},
		},
		"two holders without a DEL": {
			events: []history.Event{add("a", 0, 10, one), add("b", 20, 30, one)},
			want:   []string{"192.0.2.1 had two holders at once"},
		},
		"answered before the DEL began": {
			events: []history.Event{add("a", 0, 10, one), add("b", 5, 15, one), del("a", 20, 30), del("b", 40, 50)},
			want:   []string{"192.0.2.1 had two holders at once"},
		},
		"a long hold around two short ones": {
			events: []history.Event{add("a", 0, 1, two), add("b", 10, 11, two), del("b", 12, 13),
				add("c", 20, 21, two), del("c", 22, 23), del("a", 30, 31)},
			want: []string{"2001:db8::2 had two holders at once", "2001:db8::2 had two holders at once"},
		},
		"second family only": {
			events: []history.Event{add("a", 0, 10, one), add("b", 20, 30, two), add("c", 40, 50, two)},
			want:   []string{"2001:db8::2 had two holders at once"},
		},
		"two interfaces of one sandbox": {
			events: []history.Event{add("a", 0, 10, one), {Kind: history.Add, Start: at(20), End: at(30),
				Interface: history.Interface{ContainerID: "a", Name: "net1"}, Addresses: []netip.Addr{one}}},
			want: []string{"192.0.2.1 had two holders at once"},
		},
		"twice in one answer": {
			events: []history.Event{add("a", 0, 10, one, one)},
			want:   []string{"192.0.2.1 is twice in one answer", "192.0.2.1 had two holders at once"},
		},
		"repeated with the same answer, in another order": {
			events: []history.Event{add("a", 0, 10, one, two), add("a", 20, 30, two, one)},
		},
		"repeated with another answer": {
			events: []history.Event{add("a", 0, 10, one), add("a", 20, 30, two)},
			want:   []string{"a repeated ADD gave other addresses"},
		},
		"failed ADD holds nothing": {
			events: []history.Event{failed(add("a", 0, 10)), add("b", 20, 30, one)},
		},
		"failed DEL may have released": {
			events: []history.Event{add("a", 0, 10, one), failed(del("a", 20, 30)), add("b", 40, 50, one), del("a", 60, 70)},
		},
		"late DEL ends no other hold": {
			events: []history.Event{add("a", 0, 10, one), del("a", 20, 30), add("b", 40, 50, one), del("a", 60, 70), add("c", 80, 90, one)},
			want:   []string{"192.0.2.1 had two holders at once"},
		},
		"lost sandbox": {
			events: []history.Event{add("a", 0, 10, one), lost("a", 20), add("b", 30, 40, one)},
		},
		"CHECK ends no hold, and begins none": {
			events: []history.Event{add("a", 0, 10, one), check("a", 20, 30), check("b", 20, 30), add("b", 40, 50, one)},
			want:   []string{"192.0.2.1 had two holders at once"},
		},
		"freed before the sandbox was lost": {
			events: []history.Event{add("a", 0, 10, one), add("b", 12, 14, one), lost("a", 20)},
			want:   []string{"192.0.2.1 had two holders at once"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := history.Check(c.events)
			if len(got) != len(c.want) {
				t.Fatalf("%d violations, want %d: %v", len(got), len(c.want), got)
			}
			for i, v := range got {
				if !strings.HasPrefix(v.String(), c.want[i]) {
					t.Errorf("violation %q, want %q", v, c.want[i])
				}
			}
		})
	}
}

// operation is a call for one address in the model.
type operation struct {
	holder string
	give   bool // an ADD that returned the address; otherwise a DEL
}

// register models an address as a state machine: its holder, or none. An ADD can return
// the address if it has no holder or already belongs to the same interface. A DEL of
// another interface changes nothing.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		op, holder := input.(operation), state.(string)
		switch {
		case op.give:
			return holder == "" || holder == op.holder, op.holder
		case holder == op.holder:
			return true, ""
		default:
			return true, holder
		}
	},
}

// TestCheckAgreesWithPorcupine compares the verdict on random histories, good and bad
// ones, with that of porcupine, which tries all orders.
func TestCheckAgreesWithPorcupine(t *testing.T) {
	verdicts := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		var events []history.Event
		var operations []porcupine.Operation
		for c := range rapid.IntRange(1, 5).Draw(t, "containers") {
			container := fmt.Sprint("c", c)
			now := rapid.IntRange(0, 30).Draw(t, "begin")
			for range rapid.IntRange(1, 2).Draw(t, "calls") {
				for _, kind := range []history.Kind{history.Add, history.Del} {
					// Calls begin at even instants and end at odd ones, so no two coincide.
					from := now + 2*rapid.IntRange(0, 8).Draw(t, "pause")*10 + 2*c
					to := from + 20*rapid.IntRange(1, 8).Draw(t, "length") + 1
					now = to + 1
					e := add(container, from, to, one)
					if kind == history.Del {
						e = del(container, from, to)
					}
					events = append(events, e)
					operations = append(operations, porcupine.Operation{ClientId: c, Input: operation{container, kind == history.Add},
						Call: int64(from), Return: int64(to)})
				}
			}
		}
		linearizable := porcupine.CheckOperations(register, operations)
		verdicts[linearizable]++
		if violations := history.Check(events); linearizable != (len(violations) == 0) {
			t.Fatalf("porcupine: linearizable %v; Check: %v\n%+v", linearizable, violations, events)
		}
	})
	t.Logf("count by linearizability: %v", verdicts)
	if verdicts[true] == 0 || verdicts[false] == 0 {
		t.Errorf("all histories have the same verdict, so the comparison proves nothing: %v", verdicts)
	}
}
