// Package history records which sandbox got which address, and checks that no address
// ever had two holders at once.
//
// An interface holds an address for certain from the moment that its ADD returns until
// its DEL is called: the ADD may take effect at the end of the call, the DEL at the
// beginning. If two certain holds of one address overlap, no order of the calls
// explains them. If no two overlap, one order does: every ADD at its end, every DEL at
// its beginning. So the check finds all duplicates and has no false positives.
package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Kind is the kind of an event.
type Kind string

const (
	// Add is an ADD call.
	Add Kind = "ADD"
	// Del is a DEL call. Even a failed one may have released the addresses.
	Del Kind = "DEL"
	// CheckCall is a CHECK call. It changes nothing.
	CheckCall Kind = "CHECK"
	// Lost means that the sandbox disappeared without a DEL, at Start.
	Lost Kind = "LOST"
)

// Interface is the holder of an address: one interface of one sandbox.
type Interface struct {
	ContainerID string `json:"container"`
	Name        string `json:"interface"`
}

// Event is one call, or the loss of a sandbox.
type Event struct {
	Kind      Kind         `json:"kind"`
	Interface              // embedded: container, interface
	Pod       string       `json:"pod"`
	Node      string       `json:"node"`
	Start     time.Time    `json:"start"`
	End       time.Time    `json:"end"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // the result of a successful ADD
	Error     string       `json:"error,omitempty"`
}

// Log collects events; it is safe for concurrent use.
type Log struct {
	mu     sync.Mutex
	events []Event
}

// Record adds an event.
func (l *Log) Record(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// Events returns the events recorded so far.
func (l *Log) Events() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// Write writes the events to a file, one JSON object per line.
func (l *Log) Write(path string) error {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, e := range l.Events() {
		if err := encoder.Encode(e); err != nil {
			return err
		}
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// Violation is an error in the history.
type Violation struct {
	What   string
	Events []Event
}

func (v Violation) String() string {
	text := v.What
	for _, e := range v.Events {
		text += fmt.Sprintf("\n    %s %s/%s of pod %s on %s, %s to %s: %v", e.Kind, e.ContainerID, e.Name, e.Pod, e.Node,
			e.Start.Format(clock), e.End.Format(clock), e.Addresses)
	}
	return text
}

const clock = "15:04:05.000000"

// hold is the time of one certain hold: an interface has the address.
type hold struct {
	from, to time.Time // to is zero while the hold lasts
	add      Event
}

// Check returns every violation: an address with two holders at once, an address twice
// in one answer, and a repeated ADD with a different answer.
func Check(events []Event) []Violation {
	holds, violations := certainHolds(events)
	for _, addr := range slices.SortedFunc(maps.Keys(holds), netip.Addr.Compare) {
		violations = append(violations, duplicates(addr, holds[addr])...)
	}
	return violations
}

// certainHolds replays the calls of each interface. A runtime makes them one at a time.
func certainHolds(events []Event) (map[netip.Addr][]hold, []Violation) {
	ordered := slices.Clone(events)
	slices.SortStableFunc(ordered, func(a, b Event) int { return a.Start.Compare(b.Start) })
	open := map[Interface]Event{}
	all := map[netip.Addr][]hold{}
	var violations []Violation
	for _, e := range ordered {
		before, holding := open[e.Interface]
		switch {
		case e.Kind == CheckCall:
		case e.Kind == Add && len(e.Addresses) > 0:
			if repeated := repeats(e.Addresses); repeated.IsValid() {
				violations = append(violations, Violation{fmt.Sprintf("%s is twice in one answer", repeated), []Event{e}})
			}
			if holding && !sameAddresses(before.Addresses, e.Addresses) {
				violations = append(violations, Violation{"a repeated ADD gave other addresses", []Event{before, e}})
			}
			if !holding {
				open[e.Interface] = e
			}
		case e.Kind != Add && holding:
			delete(open, e.Interface)
			for _, addr := range before.Addresses {
				all[addr] = append(all[addr], hold{from: before.End, to: e.Start, add: before})
			}
		}
	}
	for _, e := range open {
		for _, addr := range e.Addresses {
			all[addr] = append(all[addr], hold{from: e.End, add: e})
		}
	}
	return all, violations
}

// duplicates reports each hold that begins while an earlier one lasts.
func duplicates(addr netip.Addr, list []hold) []Violation {
	slices.SortFunc(list, func(a, b hold) int {
		return cmp.Or(a.from.Compare(b.from), cmp.Compare(a.add.ContainerID, b.add.ContainerID), cmp.Compare(a.add.Name, b.add.Name))
	})
	var violations []Violation
	last := -1 // the earlier hold with the latest end
	for i, h := range list {
		if last >= 0 && (list[last].to.IsZero() || h.from.Before(list[last].to)) {
			violations = append(violations, Violation{fmt.Sprintf("%s had two holders at once", addr), []Event{list[last].add, h.add}})
		}
		if last < 0 || !list[last].to.IsZero() && (h.to.IsZero() || h.to.After(list[last].to)) {
			last = i
		}
	}
	return violations
}

func repeats(list []netip.Addr) netip.Addr {
	for i, addr := range list {
		if slices.Contains(list[:i], addr) {
			return addr
		}
	}
	return netip.Addr{}
}

func sameAddresses(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}
