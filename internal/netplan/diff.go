package netplan

import (
	"slices"
	"strings"
)

// Change is one step from the actual state to the wanted state. Old is nil for an
// addition, New is nil for a removal.
type Change struct {
	Old, New Item
}

// Inverse returns the change undoing c.
func (c Change) Inverse() Change { return Change{Old: c.New, New: c.Old} }

// String returns "+ item", "- item" or "~ old => new".
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

// Changes are steps in the order of application.
type Changes []Change

// Inverse returns the changes undoing cs: the inverse steps in reverse order.
func (cs Changes) Inverse() Changes {
	out := make(Changes, 0, len(cs))
	for _, c := range slices.Backward(cs) {
		out = append(out, c.Inverse())
	}
	return out
}

// String returns one step per line.
func (cs Changes) String() string {
	var b strings.Builder
	for _, c := range cs {
		b.WriteString(c.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Owned reports whether a route or rule carries our protocol number. Most callers
// of Diff pass it as removable.
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

// Diff returns the steps from have to want:
//
//  1. additions, in the order required by the kernel: rules come after the tables
//     they select,
//  2. replacements of routes and rules with the same key,
//  3. removals of removable unwanted items, in reverse order. This includes an
//     unwanted item with the same key as a wanted one, because the kernel keeps
//     several routes to one destination and chooses one.
//
// With this order, an existing connection has a route at every moment.
func Diff(have, want State, removable func(Item) bool) Changes {
	byKey := make(map[string][]Item, len(have))
	for _, it := range have {
		byKey[it.Key()] = append(byKey[it.Key()], it)
	}
	stays := make(map[Item]bool, len(want)) // items of have to keep or to replace
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
