package netplan

import (
	"slices"
	"strings"
)

// Change is one step from the state that is to the state that is wanted. Old is
// nil for something new, New is nil for something to remove.
type Change struct {
	Old, New Item
}

// Inverse is the step back.
func (c Change) Inverse() Change { return Change{Old: c.New, New: c.Old} }

// String is "+ item", "- item" or "~ old => new".
func (c Change) String() string {
	switch {
	case c.Old == nil:
		return "+ " + c.New.String()
	case c.New == nil:
		return "- " + c.Old.String()
	default:
		return "~ " + c.Old.String() + " => " + c.New.String()
	}
}

// Changes is a list of steps in the order of application.
type Changes []Change

// Inverse is the way back: the inverse steps in the opposite order.
func (cs Changes) Inverse() Changes {
	out := make(Changes, 0, len(cs))
	for _, c := range slices.Backward(cs) {
		out = append(out, c.Inverse())
	}
	return out
}

// String is one step a line.
func (cs Changes) String() string {
	var b strings.Builder
	for _, c := range cs {
		b.WriteString(c.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Owned reports whether the item carries our protocol number. It is the usual
// answer to which items of a namespace Diff may remove.
func Owned(it Item) bool {
	switch it := it.(type) {
	case Route:
		return it.Proto == Protocol
	case Rule:
		return it.Proto == Protocol
	default:
		return false
	}
}

// Diff returns the steps that lead from have to want: what is missing is added
// or replaces what has the same key; what is there, removable and not wanted is
// removed, also beside something wanted of the same key, because the kernel keeps
// several routes to one destination and chooses. Additions come first, in the
// order in which the kernel needs them, with the rules after the tables that they
// point to; then come replacements of routes and rules, then removals in the
// opposite order. So a connection that may go on finds a way at every moment.
func Diff(have, want State, removable func(Item) bool) Changes {
	byKey := make(map[string][]Item, len(have))
	for _, it := range have {
		byKey[it.Key()] = append(byKey[it.Key()], it)
	}
	stays := make(map[Item]bool, len(want)) // of have, or about to be replaced
	var add, replace, remove Changes
	for _, w := range want.sorted() {
		var satisfying []Item
		existing := byKey[w.Key()]
		for _, h := range existing {
			if w.SatisfiedBy(h) {
				satisfying = append(satisfying, h)
			}
		}
		switch {
		case len(satisfying) > 0:
		case len(existing) == 0:
			add = append(add, Change{New: w})
		case w.phase() < phaseLinkRoute:
			satisfying = existing[:1]
			add = append(add, Change{Old: existing[0], New: w})
		default:
			satisfying = existing[:1]
			replace = append(replace, Change{Old: existing[0], New: w})
		}
		for _, h := range satisfying {
			stays[h] = true
		}
	}
	for _, h := range slices.Backward(have.sorted()) {
		if !stays[h] && removable(h) {
			remove = append(remove, Change{Old: h})
		}
	}
	return slices.Concat(add, replace, remove)
}
