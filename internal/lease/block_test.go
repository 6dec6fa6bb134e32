package lease

import (
	"errors"
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
	got, ended := b.Release(Attachment{"c", "eth0"}, now)

	kept := before[2]
	kept.State, kept.Since = Retained, now
	want := []Lease{{Addr: addr("10.0.0.1"), State: Released, Since: now}, before[1], kept, before[3], {Addr: addr("10.0.0.5"), State: Released, Since: now}}
	if !slices.Equal(got.Leases, want) {
		t.Errorf("leases are\n%+v, want\n%+v", got.Leases, want)
	}
	if want := []Lease{before[0], before[2], before[4]}; !slices.Equal(ended, want) {
		t.Errorf("ended %+v, want %+v", ended, want)
	}
	if !slices.Equal(b.Leases, before) {
		t.Errorf("the block itself became %+v", b.Leases)
	}
	if same, ended := b.Release(Attachment{"c", "net1"}, now); len(ended) > 0 || !reflect.DeepEqual(same, b) {
		t.Errorf("another interface: ended %v, block %+v", ended, same)
	}
}

// TestNewerSandboxKeepsItsAddress gives a pod an address in its second sandbox, and then asks for its first one.
func TestNewerSandboxKeepsItsAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		arrived time.Time // of the request for the old sandbox
		node    string    // of that request
		retain  bool
		refused bool
	}{
		{"arrived before the lease", start.Add(-time.Second), "node", false, true},
		{"arrived with the lease", start, "node", false, false},
		{"arrived after the lease", start.Add(time.Second), "node", false, false},
		{"no time of arrival", time.Time{}, "node", false, false},
		{"lease of another node", start.Add(-time.Second), "other", false, false},
		{"lease no longer in use", start.Add(-time.Second), "node", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t, "10.0.0.0-10.0.0.15")
			second := request("web-0", "a")
			second.ContainerID, second.FixedFor = "second", Owner{KindPod, "default", "web-0"}
			one(t, x, start, second)
			if tt.retain {
				release(t, x, start, Attachment{"second", "eth0"})
			}
			first := second
			first.ContainerID, first.Arrived, first.Node = "first", tt.arrived, tt.node
			err := x.Choose(start, first).Results[0].Err
			var superseded *SupersededError
			if got := errors.As(err, &superseded); got != tt.refused || !got && err != nil {
				t.Fatalf("got %v, want it refused: %v", err, tt.refused)
			}
			if superseded != nil && superseded.Lease.ContainerID != "second" {
				t.Errorf("the newer sandbox is %+v", superseded.Lease)
			}
		})
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
