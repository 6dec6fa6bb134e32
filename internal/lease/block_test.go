package lease

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestReleaseEndsEveryLeaseOfBlock(t *testing.T) {
	t.Parallel()
	held := func(a, container string, owner Owner) Lease {
		return Lease{Addr: addr(a), State: InUse, Pool: "a", Since: start, Holder: Holder{Attachment: Attachment{container, "eth0"}, FixedFor: owner}}
	}
	owner := Owner{KindPod, "default", "web-0"}
	b := Block{Base: addr("10.0.0.0"), Leases: []Lease{
		held("10.0.0.1", "c", Owner{}), held("10.0.0.2", "other", Owner{}), held("10.0.0.3", "c", owner),
		{Addr: addr("10.0.0.4"), State: Retained, Holder: Holder{Attachment: Attachment{"c", "eth0"}, FixedFor: owner}, Since: start}, held("10.0.0.5", "c", Owner{}),
	}}
	before := slices.Clone(b.Leases)
	now := start.Add(time.Hour)
	got, changed := b.Release(Attachment{"c", "eth0"}, now)

	kept := before[2]
	kept.State, kept.Since = Retained, now
	want := []Lease{{Addr: addr("10.0.0.1"), State: Released, Since: now}, before[1], kept, before[3], {Addr: addr("10.0.0.5"), State: Released, Since: now}}
	if !changed || !slices.Equal(got.Leases, want) {
		t.Errorf("leases are\n%+v, want\n%+v", got.Leases, want)
	}
	if !slices.Equal(b.Leases, before) {
		t.Errorf("the block itself became %+v", b.Leases)
	}
	if same, changed := b.Release(Attachment{"c", "net1"}, now); changed || !reflect.DeepEqual(same, b) {
		t.Errorf("another interface: changed %t, block %+v", changed, same)
	}
}

func TestWritesForgetFreedAddresses(t *testing.T) {
	t.Parallel()
	quarantined := func(a string, d time.Duration) Lease {
		return Lease{Addr: addr(a), State: Quarantined, Since: start, Until: start.Add(d)}
	}
	// All are seen for a minute, but for the last one, which is new.
	over := []Lease{{Addr: addr("10.0.0.0"), State: Released, Since: start.Add(time.Hour)}, quarantined("10.0.0.1", time.Minute)}
	kept := []Lease{
		quarantined("10.0.0.3", time.Minute+time.Second),
		{Addr: addr("10.0.0.4"), State: InUse, Since: start},
		{Addr: addr("10.0.0.5"), State: Retained, Since: start},
	}
	fresh := Lease{Addr: addr("10.0.0.6"), State: Released, Since: start.Add(-time.Hour)}
	b := Block{Base: addr("10.0.0.0"), Leases: slices.Concat(over, kept)}
	seen := Sightings(nil).Next(b.Leases, start)
	b.Leases = append(b.Leases, fresh)
	want := append(kept, fresh)
	if got := b.forgetting(seen, start.Add(time.Minute), time.Minute); !slices.Equal(got.Leases, want) {
		t.Errorf("remembers %+v, want %+v", got.Leases, want)
	}
	if len(b.Leases) != len(over)+len(want) || b.Leases[0] != over[0] {
		t.Errorf("the block itself became %+v", b.Leases)
	}
}

func TestCompactedBlockCountsAsInUse(t *testing.T) {
	t.Parallel()
	full := Block{Base: addr("10.0.0.0"), Node: "other", Version: "1"}
	for i := range inet.BlockSize {
		l := Lease{Addr: inet.BlockAddr(full.Base, i), State: InUse, Pool: "a", Since: start}
		l.ContainerID, l.Interface = fmt.Sprint(i), "eth0"
		full.Leases = append(full.Leases, l)
	}
	outlined := full.Compact()
	if len(outlined.Leases) != 0 || !outlined.Compacted || outlined.Removable(nil, start, 0) {
		t.Fatalf("got %+v", outlined)
	}
	x := newIndex(t, "10.0.0.0-10.0.0.17")
	x.Put(outlined, start)
	one(t, x, start, request("p", "a"))
	if u := x.Usage("a"); u.InUse != 17 || u.Free != 1 {
		t.Errorf("usage is %+v, want 17 in use and one free", u)
	}
	freed := full
	freed.Leases = slices.Clone(full.Leases)[1:]
	x.Put(freed, start)
	if u := x.Usage("a"); u.InUse != 16 || u.Free != 2 {
		t.Errorf("after a release usage is %+v, want 16 in use and two free", u)
	}
	for _, b := range []Block{freed, {Base: full.Base, Leases: append([]Lease{{Addr: full.Base, State: Retained, Holder: Holder{FixedFor: ParseOwner("Pod/ns/web-0")}}}, freed.Leases...)}} {
		if b.Compact().Compacted {
			t.Errorf("a block was outlined that has something to give: %+v", b.Leases[0])
		}
	}
}

func TestDamagedBlockCountsAsTaken(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.17")
	x.Put(Block{Base: addr("10.0.0.0"), Node: "node", Version: "1", Damaged: "somebody edited it"}, start)
	if got := one(t, x, start, request("p", "a")); !set(t, "10.0.0.16-10.0.0.17").Contains(addr(got)) {
		t.Errorf("got %s of a damaged block", got)
	}
	if u := x.Usage("a"); u.Free != 1 {
		t.Errorf("usage is %+v, want one free", u)
	}
	if b, _ := x.Block(addr("10.0.0.0")); b.Removable(nil, start.Add(time.Hour), 0) {
		t.Error("a damaged block may be removed")
	}
}

func TestQuarantineEndsOnTime(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.2")
	a := addr(one(t, x, start, request("p", "a")))
	b, _ := x.Block(inet.BlockOf(a))
	until := start.Add(5 * time.Minute)
	if _, ok := b.Quarantine(a, eth0("q"), "02:00:00:00:00:01", start, until); ok {
		t.Error("another attachment could quarantine the address")
	}
	b, ok := b.Quarantine(a, eth0("p"), "02:00:00:00:00:01", start, until)
	if !ok {
		t.Fatal("the holder could not quarantine its address")
	}
	x.Put(b, start)
	if got := one(t, x, start, request("p", "a")); got == a.String() {
		t.Fatalf("the pod got the conflicting address %s again", got)
	}
	if err := mustBeExhausted(t, x, until.Add(-time.Second), request("q", "a")); err.Pools[0].Quarantined != 1 {
		t.Errorf("usage is %+v, want one quarantined", err.Pools[0])
	}
	if got := one(t, x, until, request("q", "a")); got != a.String() {
		t.Errorf("after the quarantine q has %s, want %s", got, a)
	}
}

func TestReclaimFreesOnlyJudgedLease(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1")
	r := request("p", "a")
	a := addr(one(t, x, start, r))
	judged := x.Attached(eth0("p"))[0]
	r.ContainerID = "second sandbox"
	one(t, x, start, r)
	b, _ := x.Block(inet.BlockOf(a))
	if _, ok := b.Reclaim(judged, start); ok {
		t.Error("reclaim freed a lease that changed hands since it was judged")
	}
	judged, _ = b.Lease(a)
	b, ok := b.Reclaim(judged, start)
	if l, _ := b.Lease(a); !ok || l.State != Released {
		t.Errorf("reclaim left %+v, %t", l, ok)
	}
	if _, ok := b.Reclaim(judged, start); ok {
		t.Error("reclaim freed twice")
	}
}

func TestRetainReservesJudgedLease(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.1-10.0.0.2")
	fixed := request("web-0", "a")
	fixed.FixedFor = ParseOwner("Pod/default/web-0")
	one(t, x, start, fixed)
	one(t, x, start, request("p", "a"))
	b, _ := x.Block(addr("10.0.0.0"))
	if _, ok := b.Retain(x.Attached(eth0("p"))[0], start); ok {
		t.Error("a lease that is fixed for nobody was retained")
	}
	judged := x.Attached(eth0("web-0"))[0]
	older := judged
	older.ContainerID = "another sandbox"
	if _, ok := b.Retain(older, start); ok {
		t.Error("a lease was retained that is not the one that was judged")
	}
	b, ok := b.Retain(judged, start.Add(time.Minute))
	l, _ := b.Lease(judged.Addr)
	if !ok || l.State != Retained || l.FixedFor != fixed.FixedFor || !l.Since.Equal(start.Add(time.Minute)) {
		t.Errorf("Retain left %+v, %t", l, ok)
	}
}

func TestRemovableBlocks(t *testing.T) {
	t.Parallel()
	quarantined := Lease{State: Quarantined, Since: start, Until: start.Add(5 * time.Minute)}
	for _, tc := range []struct {
		name   string
		leases []Lease
		seen   time.Duration // for how long
		want   bool
	}{
		{"empty", nil, 0, true},
		{"just released", []Lease{{State: Released, Since: start}}, 0, false},
		{"released almost the idle time ago", []Lease{{State: Released, Since: start}}, time.Minute - 1, false},
		{"released the idle time ago", []Lease{{State: Released, Since: start}}, time.Minute, true},
		{"released in the future", []Lease{{State: Released, Since: start.Add(time.Hour)}}, time.Minute, true},
		{"quarantined", []Lease{quarantined}, 5 * time.Minute, false},
		{"quarantine over for the idle time", []Lease{quarantined}, 6 * time.Minute, true},
		{"in use", []Lease{{State: InUse}}, time.Hour, false},
		{"retained", []Lease{{State: Retained, Since: start}}, time.Hour, false},
	} {
		seen := Sightings(nil).Next(tc.leases, start)
		if got := (Block{Leases: tc.leases}).Removable(seen, start.Add(tc.seen), time.Minute); got != tc.want {
			t.Errorf("%s: Removable = %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestValidateRefusesBrokenBlocks(t *testing.T) {
	t.Parallel()
	held := func(a string) Lease {
		return Lease{Addr: addr(a), State: InUse, Holder: Holder{Attachment: Attachment{"c", "eth0"}}}
	}
	for _, tc := range []struct {
		name  string
		block Block
		want  string // part of the error; empty: valid
	}{
		{"good", Block{Base: addr("10.0.0.16"), Leases: []Lease{held("10.0.0.16"), held("10.0.0.31")}}, ""},
		{"good IPv6", Block{Base: addr("fd00::10"), Leases: []Lease{held("fd00::1f")}}, ""},
		{"no base", Block{}, "name is not the first"},
		{"not aligned", Block{Base: addr("10.0.0.17")}, "10.0.0.17: the name is not the first of 16"},
		{"outside", Block{Base: addr("10.0.0.16"), Leases: []Lease{held("10.0.0.32")}}, "10.0.0.32 is outside the block"},
		{"twice", Block{Base: addr("10.0.0.16"), Leases: []Lease{held("10.0.0.17"), held("10.0.0.17")}}, "one per address"},
		{"unsorted", Block{Base: addr("10.0.0.16"), Leases: []Lease{held("10.0.0.18"), held("10.0.0.17")}}, "must be sorted"},
		{"state", Block{Base: addr("10.0.0.16"), Leases: []Lease{{Addr: addr("10.0.0.16"), State: "Lost"}}}, `unknown state "Lost"`},
		{"in use without holder", Block{Base: addr("10.0.0.16"), Leases: []Lease{{Addr: addr("10.0.0.16"), State: InUse}}}, `has the container ID ""`},
	} {
		err := tc.block.Validate()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: Validate() = %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestBlockMethodsDoNotChangeTheirBlock(t *testing.T) {
	t.Parallel()
	x := newIndex(t, "10.0.0.0-10.0.0.15")
	one(t, x, start, request("p", "a"))
	b, _ := x.Block(addr("10.0.0.0"))
	before := slices.Clone(b.Leases)
	b.Release(eth0("p"), start)
	b.Reclaim(b.Leases[0], start)
	b.Quarantine(b.Leases[0].Addr, eth0("p"), "", start, start)
	b.With(Lease{Addr: addr("10.0.0.1")})
	x.Choose(start, request("q", "a"))
	x.Release(start, eth0("p"))
	if !slices.Equal(b.Leases, before) {
		t.Errorf("the leases became %v, want still %v", b.Leases, before)
	}
}
