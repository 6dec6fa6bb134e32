package bpf

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/service"
)

// fakeTable is a table in memory. TestTableContract compares it with the kernel's maps.
type fakeTable[K comparable, V any] struct {
	entries map[K]V
	limit   int
	// check runs after each change.
	check func()
	// broken is the error of each deletion.
	broken error
}

func newFakeTable[K comparable, V any](limit int) *fakeTable[K, V] {
	return &fakeTable[K, V]{entries: map[K]V{}, limit: limit, check: func() {}}
}

func (f *fakeTable[K, V]) Put(k K, v V) (bool, error) {
	_, known := f.entries[k]
	if !known && len(f.entries) == f.limit {
		return false, errFull
	}
	f.entries[k] = v
	f.check()
	return !known, nil
}

func (f *fakeTable[K, V]) Delete(k K) (bool, error) {
	_, known := f.entries[k]
	if f.broken != nil {
		return false, f.broken
	}
	delete(f.entries, k)
	f.check()
	return known, nil
}

func (f *fakeTable[K, V]) All(*error) iter.Seq2[K, V] { return maps.All(f.entries) }

func (f *fakeTable[K, V]) Limit() int { return f.limit }

// fakeTables are tables in memory with their reader, the programs.
type fakeTables struct {
	*tables
	frontends *fakeTable[frontendKey, frontend]
	backends  *fakeTable[slot, endpoint]
	members   *fakeTable[member, uint32]
}

func newFakeTables(frontends, backends, members int) *fakeTables {
	f := &fakeTables{
		frontends: newFakeTable[frontendKey, frontend](frontends),
		backends:  newFakeTable[slot, endpoint](backends),
		members:   newFakeTable[member, uint32](members),
	}
	f.restart()
	return f
}

// restart replaces the agent. The entries stay.
func (f *fakeTables) restart() {
	f.tables = &tables{frontends: f.frontends, backends: f.backends, members: f.members}
}

// dump returns what a client of each frontend can get, e.g. "10.96.0.1:80/TCP 10.0.0.1:80 10.0.0.2:80".
func (f *fakeTables) dump() string {
	var lines []string
	for k, v := range f.frontends.entries {
		line := k.key().String()
		if v.Flags != 0 {
			line += fmt.Sprintf(" flags %d", v.Flags)
		}
		for _, b := range f.reachable(v) {
			line += " " + b
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// reachable returns the backends of a frontend, "missing" for an empty slot.
func (f *fakeTables) reachable(v frontend) []string {
	var out []string
	for i := range v.Count {
		b, ok := f.backends.entries[slot{v.Set, i}]
		if !ok {
			out = append(out, "missing")
			continue
		}
		out = append(out, netip.AddrPortFrom(netip.AddrFrom16(b.Addr).Unmap(), uint16(b.Port[0])<<8|uint16(b.Port[1])).String())
	}
	slices.Sort(out)
	return out
}

func backendOf(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 8080)
}

func keyOf(n int) service.FrontendKey {
	return service.FrontendKey{Addr: netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}), Port: 80, Protocol: service.TCP}
}

// set returns the diff of a new service with one frontend and backends.
func set(id service.ID, key int, backends ...int) service.Diff {
	d := service.Diff{SetFrontends: []service.FrontendEntry{{
		FrontendKey: keyOf(key), Frontend: service.Frontend{ID: id, Count: uint32(len(backends))},
	}}}
	for i, b := range backends {
		d.SetBackends = append(d.SetBackends, service.BackendEntry{Slot: service.Slot{ID: id, Index: uint32(i)}, Backend: backendOf(b)})
	}
	return d
}

func join(diffs ...service.Diff) (out service.Diff) {
	for _, d := range diffs {
		out.SetFrontends = append(out.SetFrontends, d.SetFrontends...)
		out.SetBackends = append(out.SetBackends, d.SetBackends...)
		out.SetMembers = append(out.SetMembers, d.SetMembers...)
	}
	return out
}

func change(t *testing.T, f *fakeTables, d service.Diff) {
	t.Helper()
	if err := f.change(d); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, f *fakeTables, d service.Diff) {
	t.Helper()
	if err := f.replace(d); err != nil {
		t.Fatal(err)
	}
}

func wantDump(t *testing.T, f *fakeTables, want ...string) {
	t.Helper()
	if diff := cmp.Diff(strings.Join(want, "\n"), f.dump()); diff != "" {
		t.Error(diff)
	}
	if want := (Entries{len(f.frontends.entries), len(f.backends.entries), len(f.members.entries)}); f.size != want {
		t.Errorf("counted %v entries, want %v", f.size, want)
	}
}

func TestRestartKeepsAndRemovesEntries(t *testing.T) {
	f := newFakeTables(9, 9, 9)
	replace(t, f, join(set(1, 1, 1), set(2, 2, 2, 3)))
	f.restart()
	known, err := f.known()
	if want := map[service.FrontendKey]service.ID{keyOf(1): 1, keyOf(2): 2}; err != nil || !maps.Equal(known, want) {
		t.Fatalf("the kernel has %v (%v), want %v", known, err, want)
	}
	replace(t, f, join(set(2, 2, 2, 3, 4), set(3, 3, 5))) // the first service is gone
	wantDump(t, f, "10.96.0.2:80/TCP 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080", "10.96.0.3:80/TCP 10.0.0.5:8080")
	if n := len(f.backends.entries); n != 4 {
		t.Errorf("%d backends are left, want 4", n)
	}
}

func TestRestartParsSharedSet(t *testing.T) {
	f := newFakeTables(9, 9, 9)
	shared := set(1, 1, 1, 2)
	shared.SetFrontends = append(shared.SetFrontends, set(1, 2, 1, 2).SetFrontends...)
	replace(t, f, shared)
	f.restart()
	f.watch(func(key string, reachable []string) {
		foreign := map[string]string{"10.96.0.1:80/TCP": "10.0.0.4:8080", "10.96.0.2:80/TCP": "10.0.0.3:8080"}[key]
		if slices.Contains(reachable, foreign) {
			t.Errorf("%s led to %v meanwhile", key, reachable)
		}
	})
	replace(t, f, join(set(1, 1, 3), set(2, 2, 4)))
	wantDump(t, f, "10.96.0.1:80/TCP 10.0.0.3:8080", "10.96.0.2:80/TCP 10.0.0.4:8080")
}

// watch calls f with each frontend after each change of a table.
func (f *fakeTables) watch(seen func(key string, reachable []string)) {
	check := func() {
		for k, v := range f.frontends.entries {
			seen(k.key().String(), f.reachable(v))
		}
	}
	f.frontends.check, f.backends.check, f.members.check = check, check, check
}

func TestFullMapLeavesServiceOut(t *testing.T) {
	for _, c := range []struct {
		name                         string
		frontends, backends, members int
		want                         string
	}{
		{"frontends", 1, 9, 9, "the eBPF map frontends is full (1 entries): kube-proxy serves 10.96.0.2:80/TCP"},
		{"backends", 9, 2, 9, "the eBPF map backends is full (2 entries): kube-proxy serves 10.96.0.2:80/TCP"},
		{"members", 9, 9, 0, "the eBPF map members is full (0 entries): kube-proxy serves 10.96.0.2:80/TCP"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeTables(c.frontends, c.backends, c.members)
			replace(t, f, set(1, 1, 1))
			second := set(2, 2, 2, 3)
			second.SetMembers = []service.MemberEntry{{Member: service.Member{ID: 2, Backend: backendOf(2)}}}
			err := f.change(second)
			var full *FullError
			if !errors.As(err, &full) || full.Map != c.name || err.Error() != c.want {
				t.Fatalf("got error %v, want %s", err, c.want)
			}
			wantDump(t, f, "10.96.0.1:80/TCP 10.0.0.1:8080")

			// With room again, the next diff writes the rest.
			f.frontends.limit, f.backends.limit, f.members.limit = 9, 9, 9
			change(t, f, service.Diff{})
			wantDump(t, f, "10.96.0.1:80/TCP 10.0.0.1:8080", "10.96.0.2:80/TCP 10.0.0.2:8080 10.0.0.3:8080")
		})
	}
}

func TestFullMapHidesNoOtherError(t *testing.T) {
	f := newFakeTables(1, 9, 9)
	replace(t, f, set(1, 1, 1, 2))
	f.backends.broken = errors.New("no permission")
	d := set(2, 2, 2)
	d.DeleteBackends = []service.Slot{{ID: 1, Index: 1}}
	var full *FullError
	if err := f.change(d); err == nil || errors.As(err, &full) {
		t.Errorf("got %v, want an error that makes the caller replace all", err)
	}
}

func TestDeletedServiceNoLongerWaits(t *testing.T) {
	f := newFakeTables(1, 9, 9)
	replace(t, f, set(1, 1, 1))
	if err := f.change(set(2, 2, 2)); err == nil {
		t.Fatal("the full map gave no error")
	}
	change(t, f, service.Diff{DeleteFrontends: []service.FrontendKey{keyOf(2)}, DeleteBackends: []service.Slot{{ID: 2}}})
	wantDump(t, f, "10.96.0.1:80/TCP 10.0.0.1:8080")
}

func TestDeletionMakesRoomInSameDiff(t *testing.T) {
	f := newFakeTables(1, 1, 1)
	replace(t, f, set(1, 1, 1))
	d := set(2, 2, 2)
	d.DeleteFrontends, d.DeleteBackends = []service.FrontendKey{keyOf(1)}, []service.Slot{{ID: 1}}
	change(t, f, d)
	wantDump(t, f, "10.96.0.2:80/TCP 10.0.0.2:8080")
}

// TestNoFrontendIsEverHalf changes services at random, restarts the agent at random, and
// looks at every frontend after each write: it leads to backends of its service before
// or after the change.
func TestNoFrontendIsEverHalf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFakeTables(100, 1000, 1000)
		var now map[int][]int
		offset := 0 // the ID of service n is n + offset
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			next := drawServices(t, fmt.Sprint("services ", step))
			f.watch(func(key string, reachable []string) {
				for _, b := range reachable {
					if !slices.ContainsFunc(slices.Concat(now[number(key)], next[number(key)]), func(n int) bool { return backendOf(n).String() == b }) {
						t.Fatalf("%s led to %s, with backends %v before and %v after", key, b, now[number(key)], next[number(key)])
					}
				}
			})
			var err error
			if step == 0 || rapid.Bool().Draw(t, "restart") {
				f.restart()
				offset = rapid.IntRange(0, 3).Draw(t, "offset")
				err = f.replace(diffOf(nil, next, offset))
			} else {
				err = f.change(diffOf(now, next, offset))
			}
			if err != nil {
				t.Fatal(err)
			}
			now = next
			backends := 0
			for key, want := range now {
				v := f.frontends.entries[toKey(keyOf(key))]
				backends += len(want)
				if got := f.reachable(v); len(got) != len(want) {
					t.Fatalf("service %d has backends %v, want %v", key, got, want)
				}
			}
			if f.size != (Entries{len(now), backends, 0}) || len(f.backends.entries) != backends || len(f.frontends.entries) != len(now) {
				t.Fatalf("%v entries, want %d services and %d backends", f.size, len(now), backends)
			}
		}
	})
}

func number(key string) (n int) {
	fmt.Sscanf(key, "10.96.0.%d:80/TCP", &n)
	return n
}

// drawServices draws backends per service. Service n has backends 100n to 100n+99, so
// that foreign ones are seen.
func drawServices(t *rapid.T, label string) map[int][]int {
	drawn := rapid.MapOfN(rapid.IntRange(1, 5), rapid.SliceOfNDistinct(rapid.IntRange(0, 99), 1, 4, rapid.ID[int]), 0, 5).Draw(t, label)
	for n, backends := range drawn {
		for i := range backends {
			backends[i] += 100 * n
		}
	}
	return drawn
}

func diffOf(before, after map[int][]int, offset int) (d service.Diff) {
	for n, backends := range after {
		d = join(d, set(service.ID(n+offset), n, backends...))
	}
	for n, backends := range before {
		if _, ok := after[n]; !ok {
			d.DeleteFrontends = append(d.DeleteFrontends, keyOf(n))
		}
		for i := len(after[n]); i < len(backends); i++ {
			d.DeleteBackends = append(d.DeleteBackends, service.Slot{ID: service.ID(n + offset), Index: uint32(i)})
		}
	}
	return d
}
