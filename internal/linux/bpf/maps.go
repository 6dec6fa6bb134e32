package bpf

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/service"
)

// FullError says that a map has no room. kube-proxy translates the services left out, and
// the programs all others. The next change tries again.
type FullError struct {
	// Map is the name of the map, e.g. "backends", and Limit its maximum number of entries.
	Map   string
	Limit int
	// LeftOut are the frontends whose entries are missing or old, e.g. "10.96.0.10:53/UDP", sorted.
	LeftOut []string
}

// maxNamed bounds the frontends in the text of one error.
const maxNamed = 10

func (e *FullError) Error() string {
	named := e.LeftOut
	more := ""
	if len(named) > maxNamed {
		more = fmt.Sprintf(" and %d more", len(named)-maxNamed)
		named = named[:maxNamed]
	}
	return fmt.Sprintf("the eBPF map %s is full (%d entries): kube-proxy serves %s%s", e.Map, e.Limit, strings.Join(named, ", "), more)
}

// tables holds the entries of the kernel and changes them.
type tables struct {
	frontends table[frontendKey, frontend]
	backends  table[slot, endpoint]
	members   table[member, uint32]

	// waiting are the entries to write. Those for which a map had no room stay.
	waiting entries
	size    Entries
}

type entries struct {
	frontends map[frontendKey]frontend
	backends  map[slot]endpoint
	members   map[member]uint32
}

// Entries is the number of entries in each map.
type Entries struct{ Frontends, Backends, Members int }

// deletions are the entries to delete.
type deletions struct {
	frontends []frontendKey
	backends  []slot
	members   []member
}

// replace makes the entries those of the diff, which has all of them.
func (t *tables) replace(all service.Diff) error {
	gone, err := t.adopt(all)
	if err != nil {
		return err
	}
	t.waiting = entries{map[frontendKey]frontend{}, map[slot]endpoint{}, map[member]uint32{}}
	return t.apply(all, gone)
}

// change applies the next diff after replace.
func (t *tables) change(d service.Diff) error {
	var gone deletions
	for _, k := range d.DeleteFrontends {
		gone.frontends = append(gone.frontends, toKey(k))
	}
	for _, m := range d.DeleteMembers {
		gone.members = append(gone.members, toMember(m))
	}
	for _, s := range d.DeleteBackends {
		gone.backends = append(gone.backends, toSlot(s))
	}
	return t.apply(d, gone)
}

// apply writes what the diff sets and deletes entries. At no moment does a frontend
// count a backend that is not there: sets grow before their frontends do, and shrink
// after them.
func (t *tables) apply(d service.Diff, gone deletions) error {
	t.enqueue(d)
	var errs []error
	for _, k := range gone.frontends { // first, to make room
		delete(t.waiting.frontends, k)
		errs = append(errs, drop(t.frontends, k, &t.size.Frontends))
	}
	full := t.write(&errs)
	for _, k := range gone.members {
		delete(t.waiting.members, k)
		errs = append(errs, drop(t.members, k, &t.size.Members))
	}
	for _, k := range gone.backends {
		delete(t.waiting.backends, k)
		errs = append(errs, drop(t.backends, k, &t.size.Backends))
	}
	if full != nil { // the deletions may have made room
		full = t.write(&errs)
	}
	// A FullError promises that all else is done.
	if err := errors.Join(errs...); err != nil || full == nil {
		return err
	}
	return full
}

func drop[K comparable, V any](from table[K, V], k K, count *int) error {
	deleted, err := from.Delete(k)
	if deleted {
		*count--
	}
	if err != nil {
		return fmt.Errorf("delete the entry %v of an eBPF map: %w", k, err)
	}
	return nil
}

// known returns the sets of the frontends in the kernel.
func (t *tables) known() (map[service.FrontendKey]service.ID, error) {
	out := map[service.FrontendKey]service.ID{}
	var err error
	for k, f := range t.frontends.All(&err) {
		if f.Set != 0 {
			out[k.key()] = service.ID(f.Set)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read the eBPF map frontends: %w", err)
	}
	return out, nil
}

// adopt counts the entries in the kernel, and returns those that the diff lacks.
func (t *tables) adopt(d service.Diff) (deletions, error) {
	var gone deletions
	var err error
	before := maps.Collect(t.frontends.All(&err))
	backends, members := keys(t.backends.All(&err)), keys(t.members.All(&err))
	if err != nil {
		return gone, fmt.Errorf("read the eBPF maps: %w", err)
	}
	t.size = Entries{len(before), len(backends), len(members)}
	if err := t.release(before, d); err != nil {
		return gone, err
	}
	for _, e := range d.SetFrontends {
		delete(before, toKey(e.FrontendKey))
	}
	for _, e := range d.SetBackends {
		delete(backends, toSlot(e.Slot))
	}
	for _, e := range d.SetMembers {
		delete(members, toMember(e.Member))
	}
	gone.frontends = slices.Collect(maps.Keys(before))
	gone.backends = slices.Collect(maps.Keys(backends))
	gone.members = slices.Collect(maps.Keys(members))
	return gone, nil
}

// release deletes the frontends that are about to lose their set to others. Until their
// own entry is written, they would lead to foreign backends; now kube-proxy has them.
func (t *tables) release(before map[frontendKey]frontend, d service.Diff) error {
	used := map[uint32]bool{}
	for _, e := range d.SetBackends {
		used[uint32(e.ID)] = true
	}
	for _, e := range d.SetFrontends {
		k := toKey(e.FrontendKey)
		if f, ok := before[k]; ok && f.Set != uint32(e.ID) && used[f.Set] {
			if err := drop(t.frontends, k, &t.size.Frontends); err != nil {
				return err
			}
		}
	}
	return nil
}

func keys[K comparable, V any](entries iter.Seq2[K, V]) map[K]struct{} {
	out := map[K]struct{}{}
	for k := range entries {
		out[k] = struct{}{}
	}
	return out
}

// enqueue adds what the diff sets to the waiting entries.
func (t *tables) enqueue(d service.Diff) {
	w := &t.waiting
	for _, e := range d.SetBackends {
		w.backends[toSlot(e.Slot)] = toEndpoint(e.Backend)
	}
	for _, e := range d.SetMembers {
		var drains uint32
		if e.Draining {
			drains = 1
		}
		w.members[toMember(e.Member)] = drains
	}
	for _, e := range d.SetFrontends {
		w.frontends[toKey(e.FrontendKey)] = frontend{Set: uint32(e.ID), Count: e.Count, Timeout: e.Timeout, Flags: uint32(e.Flags)}
	}
}

// write writes the waiting entries, the frontends last. A frontend waits for the
// entries of its set.
func (t *tables) write(errs *[]error) *FullError {
	w := &t.waiting
	full := ""
	limit := 0
	note := func(name string, size int, err error) {
		if errors.Is(err, errFull) {
			full, limit = name, size
		} else if err != nil {
			*errs = append(*errs, fmt.Errorf("write the eBPF map %s: %w", name, err))
		}
	}
	note("backends", t.backends.Limit(), put(t.backends, w.backends, &t.size.Backends))
	note("members", t.members.Limit(), put(t.members, w.members, &t.size.Members))

	incomplete := map[uint32]bool{}
	for s := range w.backends {
		incomplete[s.Set] = true
	}
	for m := range w.members {
		incomplete[m.Set] = true
	}
	ready := maps.Clone(w.frontends)
	maps.DeleteFunc(ready, func(_ frontendKey, f frontend) bool { return incomplete[f.Set] })
	for k := range ready {
		delete(w.frontends, k)
	}
	note("frontends", t.frontends.Limit(), put(t.frontends, ready, &t.size.Frontends))
	maps.Copy(w.frontends, ready)
	if full == "" {
		return nil
	}
	e := &FullError{Map: full, Limit: limit}
	for k := range w.frontends {
		e.LeftOut = append(e.LeftOut, k.key().String())
	}
	slices.Sort(e.LeftOut)
	return e
}

// put writes entries and removes the written ones from the map. It returns the first
// error and goes on, because a full map still accepts new values of known keys.
func put[K comparable, V any](to table[K, V], waiting map[K]V, count *int) error {
	var first error
	for k, v := range waiting {
		added, err := to.Put(k, v)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		if added {
			*count++
		}
		delete(waiting, k)
	}
	return first
}
