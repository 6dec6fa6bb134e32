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
	// LeftOut are the frontends whose entries are missing or old, e.g. "10.96.0.10:53/UDP", sorted. There may be none if
	// only members have no room.
	LeftOut []string
}

// maxNamed bounds the frontends in the text of one error.
const maxNamed = 10

func (e *FullError) Error() string {
	full := fmt.Sprintf("the eBPF map %s is full (%d entries)", e.Map, e.Limit)
	if len(e.LeftOut) == 0 {
		return full + ": some UDP flows and clients with affinity change their backend"
	}
	named := e.LeftOut
	more := ""
	if len(named) > maxNamed {
		more = fmt.Sprintf(" and %d more", len(named)-maxNamed)
		named = named[:maxNamed]
	}
	return fmt.Sprintf("%s: kube-proxy serves %s%s", full, strings.Join(named, ", "), more)
}

// tables holds the entries of the kernel and changes them.
type tables struct {
	frontends table[frontendKey, frontend]
	backends  table[slot, endpoint]
	members   table[member, uint32]

	// waiting are the entries that found a map full, and the frontends of their sets.
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
	t.waiting.forget(gone)
	var w writing
	for _, k := range gone.frontends { // first, to make room
		w.note(drop(t.frontends, k, &t.size.Frontends))
	}
	t.write(d, &w)
	for _, k := range gone.members {
		w.note(drop(t.members, k, &t.size.Members))
	}
	for _, k := range gone.backends {
		w.note(drop(t.backends, k, &t.size.Backends))
	}
	full := t.retry(&w)
	// A FullError promises that all else is done.
	if err := errors.Join(w.errs...); err != nil || full == nil {
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

// writing collects the errors of one diff.
type writing struct {
	errs []error
	// full is the map that had no room last.
	full  string
	limit int
}

func (w *writing) note(err error) {
	if err != nil {
		w.errs = append(w.errs, err)
	}
}

// write writes what the diff sets, the frontends last.
func (t *tables) write(d service.Diff, w *writing) {
	for _, e := range d.SetBackends {
		put("backends", t.backends, toSlot(e.Slot), toEndpoint(e.Backend), t.waiting.backends, &t.size.Backends, w)
	}
	for _, e := range d.SetMembers {
		var drains uint32
		if e.Draining {
			drains = 1
		}
		put("members", t.members, toMember(e.Member), drains, t.waiting.members, &t.size.Members, w)
	}
	incomplete := t.waiting.sets()
	for _, e := range d.SetFrontends {
		t.writeFrontend(toKey(e.FrontendKey), frontend{Set: uint32(e.ID), Count: e.Count, Timeout: e.Timeout, Flags: uint32(e.Flags)}, incomplete, w)
	}
}

// writeFrontend writes a frontend, or lets it wait for the entries of its set.
func (t *tables) writeFrontend(k frontendKey, f frontend, incomplete map[uint32]bool, w *writing) {
	if incomplete[f.Set] {
		t.waiting.frontends[k] = f
		return
	}
	put("frontends", t.frontends, k, f, t.waiting.frontends, &t.size.Frontends, w)
}

// retry writes the waiting entries once more, because the deletions may have made room.
// It returns an error if some still wait.
func (t *tables) retry(w *writing) *FullError {
	waiting := &t.waiting
	for k, v := range waiting.backends {
		put("backends", t.backends, k, v, waiting.backends, &t.size.Backends, w)
	}
	for k, v := range waiting.members {
		put("members", t.members, k, v, waiting.members, &t.size.Members, w)
	}
	incomplete := waiting.sets()
	for k, v := range waiting.frontends {
		t.writeFrontend(k, v, incomplete, w)
	}
	if len(waiting.frontends)+len(waiting.backends)+len(waiting.members) == 0 {
		return nil
	}
	e := &FullError{Map: w.full, Limit: w.limit}
	for k := range waiting.frontends {
		e.LeftOut = append(e.LeftOut, k.key().String())
	}
	slices.Sort(e.LeftOut)
	return e
}

// put writes an entry, which waits after an error.
func put[K comparable, V any](name string, to table[K, V], k K, v V, waiting map[K]V, count *int, w *writing) {
	added, err := to.Put(k, v)
	if err != nil {
		waiting[k] = v
		if errors.Is(err, errFull) {
			w.full, w.limit = name, to.Limit()
			return
		}
		w.note(fmt.Errorf("write the eBPF map %s: %w", name, err))
		return
	}
	delete(waiting, k)
	if added {
		*count++
	}
}

// sets returns the sets that lack entries.
func (e *entries) sets() map[uint32]bool {
	sets := map[uint32]bool{}
	for s := range e.backends {
		sets[s.Set] = true
	}
	for m := range e.members {
		sets[m.Set] = true
	}
	return sets
}

// forget drops the deleted entries.
func (e *entries) forget(gone deletions) {
	for _, k := range gone.frontends {
		delete(e.frontends, k)
	}
	for _, k := range gone.members {
		delete(e.members, k)
	}
	for _, k := range gone.backends {
		delete(e.backends, k)
	}
}
