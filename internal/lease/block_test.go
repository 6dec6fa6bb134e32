package lease

import (
	"reflect"
	"slices"
	"testing"
	"time"
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

// A node whose clock was a year ahead must not take addresses away for a year.
func TestWrongClockEndsQuarantine(t *testing.T) {
	t.Parallel()
	l := func(since time.Duration) Lease {
		return Lease{Addr: addr("10.0.0.1"), Pool: "a", State: Quarantined, Since: start.Add(since), Until: start.Add(since + time.Hour)}
	}
	for since, in := range map[time.Duration]bool{
		-time.Hour: false, -time.Minute: true, 0: true, time.Minute: true, time.Hour: true, time.Hour + time.Second: false, 365 * 24 * time.Hour: false,
	} {
		x := NewIndex(Options{Node: "n"})
		x.SetPool("a", set(t, "10.0.0.1"))
		b := Block{Base: addr("10.0.0.0"), Leases: []Lease{l(since)}}
		x.Put(b, start)
		n := x.Quarantined("a", start)
		if taken := x.Usage("a").Free == 0; l(since).InQuarantine(start) != in || taken != in || (n == 1) != in {
			t.Errorf("began in %s: in quarantine %t, out of reach %t, counted %d; want %t", since, l(since).InQuarantine(start), taken, n, in)
		}
		if got := b.Removable(start, 0); got == in {
			t.Errorf("began in %s: the block is removable: %t", since, got)
		}
	}
}

func TestWritesForgetFreedAddresses(t *testing.T) {
	t.Parallel()
	now := start.Add(time.Minute)
	kept := []Lease{
		{Addr: addr("10.0.0.2"), State: Released, Since: start.Add(time.Second)},
		{Addr: addr("10.0.0.3"), State: Quarantined, Until: now.Add(time.Second)},
		{Addr: addr("10.0.0.4"), State: InUse, Since: start},
		{Addr: addr("10.0.0.5"), State: Retained, Since: start},
	}
	over := []Lease{{Addr: addr("10.0.0.0"), State: Released, Since: start}, {Addr: addr("10.0.0.1"), State: Quarantined, Since: start, Until: now}}
	b := Block{Base: addr("10.0.0.0"), Leases: slices.Concat(over, kept)}
	if got := b.forgetting(now, time.Minute); !slices.Equal(got.Leases, kept) {
		t.Errorf("remembers %+v, want %+v", got.Leases, kept)
	}
	if len(b.Leases) != len(over)+len(kept) || b.Leases[0] != over[0] {
		t.Errorf("the block itself became %+v", b.Leases)
	}
}
