package lease

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/inet"
)

var errConflict = errors.New("conflict")

func TestAddressesNeverHaveTwoHolders(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		node := func() int { return rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node") }
		seen := map[netip.Addr]Sightings{} // by the controller
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := node()
				var requests []Request
				for range rapid.IntRange(1, 4).Draw(t, "batch") {
					requests = append(requests, drawRequest(t, w, n))
				}
				w.add(t, n, requests)
			},
			"delete": func(t *rapid.T) {
				var held []Attachment
				for _, h := range w.granted {
					held = append(held, h.Attachment)
				}
				if len(held) == 0 {
					t.Skip("nothing is held")
				}
				slices.SortFunc(held, func(a, b Attachment) int {
					return slices.Compare([]string{a.ContainerID, a.Interface}, []string{b.ContainerID, b.Interface})
				})
				w.del(t, node(), rapid.SampledFrom(held).Draw(t, "attachment"))
			},
			"delete unknown": func(t *rapid.T) {
				before := len(w.granted)
				w.del(t, node(), Attachment{"nobody", "eth0"})
				if len(w.granted) != before {
					t.Fatal("a DEL of nobody released something")
				}
			},
			"time":    func(t *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "s")) * time.Second) },
			"watch":   func(_ *rapid.T) { w.sync(w.nodes[node()]) },
			"reserve": func(t *rapid.T) { w.reserve(t, node()) },
			"reclaim": w.reclaim,
			"tidy": func(_ *rapid.T) {
				for base, b := range w.store.blocks {
					seen[base] = seen[base].Next(b.Leases, w.now)
					if b.Removable(seen[base], w.now, time.Minute) {
						delete(w.store.blocks, base)
					}
				}
			},
			"": w.check,
		})
	})
}

// A node with full knowledge refuses a request only if it cannot be served: some of
// its wants together have fewer free addresses than wants (Hall's theorem).
func TestOnlyUnservableRequestsAreRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		x := w.nodes[0]
		// For disjoint pools, an assignment of pools gives one of addresses.
		rest := inet.Set{}
		for _, name := range slices.Sorted(maps.Keys(w.pools)) {
			w.pools[name] = w.pools[name].Minus(rest)
			rest = inet.Union(rest, w.pools[name])
			x.SetPool(name, w.pools[name])
		}
		for range rapid.IntRange(1, 60).Draw(t, "adds") {
			r := drawRequest(t, w, 0)
			r.ContainerID, r.PodUID, r.FixedFor = fmt.Sprint("c", w.store.writes, len(r.Wants)), "", Owner{}
			plan := x.Choose(w.now, r)
			free := map[string]int{}
			for name, usable := range w.pools {
				for _, a := range addrsOf(usable) {
					if b, _ := x.Block(inet.BlockOf(a)); !isTaken(b, a) {
						free[name]++
					}
				}
			}
			if possible := feasible(r.Wants, free); possible != (plan.Results[0].Err == nil) {
				t.Fatalf("possible: %t, result: %+v; free: %v, wants: %+v", possible, plan.Results[0], free, r.Wants)
			}
			for _, b := range plan.Writes {
				written, err := w.store.write(b)
				if err != nil {
					t.Fatal(err)
				}
				x.Put(written, w.now)
			}
		}
	})
}

func isTaken(b Block, a netip.Addr) bool {
	l, ok := b.Lease(a)
	return ok && l.State != Released
}

// feasible tries every pool for every want.
func feasible(wants []Want, free map[string]int) bool {
	if len(wants) == 0 {
		return true
	}
	for _, name := range wants[0].Pools {
		if free[name] > 0 {
			free[name]--
			ok := feasible(wants[1:], free)
			free[name]++
			if ok {
				return true
			}
		}
	}
	return false
}

// An index decides like a new one with the same contents, regardless of its history.
func TestIndexEqualsRecomputation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) { w.add(t, 0, []Request{drawRequest(t, w, 0), drawRequest(t, w, 0)}) },
			"add elsewhere": func(t *rapid.T) {
				n := len(w.nodes) - 1
				w.add(t, n, []Request{drawRequest(t, w, n)})
				w.sync(w.nodes[0])
			},
			"delete": func(t *rapid.T) {
				pod := rapid.IntRange(0, 12).Draw(t, "pod")
				w.del(t, 0, Attachment{fmt.Sprintf("c-%d-0-0", pod), "eth0"})
			},
			"quarantine": func(t *rapid.T) {
				for _, b := range slices.SortedFunc(maps.Values(w.store.blocks), func(a, b Block) int { return a.Base.Compare(b.Base) }) {
					for _, l := range b.Leases {
						if q, ok := b.Quarantine(l.Addr, l.Attachment, "02:00:00:00:00:01", w.now, w.now.Add(time.Minute)); ok {
							delete(w.granted, l.Addr)
							if _, err := w.store.write(q); err != nil {
								t.Fatal(err)
							}
							w.sync(w.nodes[0])
							return
						}
					}
				}
			},
			"time": func(t *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "s")) * time.Second) },
			"forget a block": func(t *rapid.T) {
				if known := slices.Collect(w.nodes[0].Blocks()); len(known) > 0 {
					slices.SortFunc(known, func(a, b Block) int { return a.Base.Compare(b.Base) })
					w.nodes[0].Delete(rapid.SampledFrom(known).Draw(t, "block").Base)
				}
			},
			"change a pool": func(t *rapid.T) {
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(w.pools))).Draw(t, "pool")
				first, _ := w.pools[name].First()
				changed := inet.Union(w.pools[name], inet.OfAddrs(plus(first, rapid.IntRange(1, 40).Draw(t, "added"))))
				w.pools[name] = changed
				w.nodes[0].SetPool(name, changed)
			},
			"": func(t *rapid.T) { mustEqualRebuilt(t, w, w.nodes[0]) },
		})
	})
}

func mustEqualRebuilt(t *rapid.T, w *world, x *Index) {
	fresh := w.newIndex(0)
	x.advance(w.now)
	for b := range x.Blocks() {
		fresh.put(b, x.seen(b.Base), w.now)
	}
	for name := range w.pools {
		if got, want := x.Usage(name), fresh.Usage(name); got != want {
			t.Fatalf("usage of %s is %+v, recomputed %+v", name, got, want)
		}
		free := int64(0)
		for _, a := range addrsOf(w.pools[name]) {
			b, _ := x.Block(inet.BlockOf(a))
			if len(b.FormerOf(a)) > 0 {
				continue
			}
			if l, ok := b.Lease(a); !ok || l.State == Released || l.State == Quarantined && x.seen(b.Base).Age(l, w.now) >= l.quarantine() {
				free++
			}
		}
		if got := x.Usage(name).Free; got != free {
			t.Fatalf("%s has %d free addresses, the index says %d", name, free, got)
		}
	}
	requests := []Request{drawRequest(t, w, 0), drawRequest(t, w, 0)}
	got, want := x.Choose(w.now, requests...), fresh.Choose(w.now, requests...)
	if !slices.EqualFunc(got.Writes, want.Writes, equalBlocks) {
		t.Fatalf("plan writes %v, with a rebuilt index %v", got.Writes, want.Writes)
	}
	for b := range x.Blocks() {
		for _, l := range b.Leases {
			if l.State == InUse && !slices.Contains(x.Attached(l.Attachment), l) {
				t.Fatalf("%+v is not found by its attachment", l)
			}
			if !l.FixedFor.IsZero() && (l.State == InUse || l.State == Retained) && !slices.Contains(x.FixedFor(l.FixedFor), l) {
				t.Fatalf("%+v is not found by its owner", l)
			}
		}
	}
	if len(x.attached) != len(fresh.attached) || len(x.former) != len(fresh.former) || len(x.fixed) != len(fresh.fixed) || len(x.uids) != len(fresh.uids) || len(x.tallies) != len(fresh.tallies) {
		t.Fatal("look-up tables keep what is gone")
	}
}

func equalBlocks(a, b Block) bool {
	return a.Base == b.Base && a.Node == b.Node && a.Version == b.Version && slices.Equal(a.Leases, b.Leases) && slices.Equal(a.Former, b.Former)
}

// addrsOf returns the addresses of a small set in order.
func addrsOf(s inet.Set) []netip.Addr {
	var addrs []netip.Addr
	for _, r := range s.Ranges() {
		for a := r.From(); a.Compare(r.To()) <= 0; a = a.Next() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}
