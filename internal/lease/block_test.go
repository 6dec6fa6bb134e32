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
