package lease

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func TestSightingsFollowStates(t *testing.T) {
	t.Parallel()
	l := Lease{Addr: addr("10.0.0.1"), State: Retained, Since: start, Holder: Holder{Attachment: eth0("p"), PodUID: "u"}}
	var seen Sightings
	at := func(d time.Duration, want time.Duration, l Lease) {
		t.Helper()
		seen = seen.Next([]Lease{l}, start.Add(d))
		if got := seen.Age(l, start.Add(d)); got != want {
			t.Errorf("after %s, the age is %s, want %s", d, got, want)
		}
	}
	at(0, 0, l)
	at(time.Minute, time.Minute, l)
	used := l
	used.State, used.Since = InUse, start.Add(2*time.Minute)
	at(2*time.Minute, 0, used)
	again := l
	again.Since = start.Add(3 * time.Minute)
	at(3*time.Minute, 0, again)
	at(5*time.Minute, 2*time.Minute, again)
	if got := seen.Age(l, start.Add(5*time.Minute)); got != 0 {
		t.Errorf("a forgotten state has the age %s", got)
	}
	if got := seen.Next(nil, start); got != nil {
		t.Errorf("without leases: %v", got)
	}
}

// The node that wrote the lease had a clock an hour ahead, or a hand wrote the end.
func TestForeignClocksDoNotProlongLeases(t *testing.T) {
	t.Parallel()
	far := start.AddDate(1, 0, 0)
	for name, tc := range map[string]struct {
		lease Lease
		ends  time.Duration
	}{
		"released in the future":     {Lease{State: Released, Since: far}, 0}, // reused last, but at once
		"quarantined in the future":  {Lease{State: Quarantined, Since: far, Until: far.Add(10 * time.Minute)}, 10 * time.Minute},
		"quarantined in the past":    {Lease{State: Quarantined, Since: start.Add(-2 * time.Hour), Until: start.Add(-2*time.Hour + 10*time.Minute)}, 10 * time.Minute},
		"quarantined for a year":     {Lease{State: Quarantined, Since: start, Until: far}, MaxQuarantine},
		"quarantined, end before":    {Lease{State: Quarantined, Since: far, Until: start}, 0},
		"quarantined without an end": {Lease{State: Quarantined, Since: start}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(t, "10.0.0.1")
			tc.lease.Addr, tc.lease.Pool = addr("10.0.0.1"), "a"
			b := Block{Base: addr("10.0.0.0"), Node: "other", Version: "1", Leases: []Lease{tc.lease}}
			x.Put(b, start)
			for _, at := range []time.Duration{0, max(tc.ends-1, 0), tc.ends, 2 * tc.ends} {
				if n := x.Quarantined("a", start.Add(at)); (n == 1) != (at < tc.ends) {
					t.Errorf("after %s, %d addresses count as quarantined", at, n)
				}
			}
			if tc.ends > 0 {
				mustBeExhausted(t, x, start.Add(tc.ends-time.Second), request("p", "a"))
			}
			// A read of the same block, and a decision about it, do not begin the time anew.
			b.Version = "2"
			x.Put(b, start.Add(tc.ends/2))
			x.Choose(start.Add(tc.ends/2), request("q", "a"))
			one(t, x, start.Add(tc.ends), request("p", "a"))
			if _, ok := x.Block(inet.BlockOf(tc.lease.Addr)); !ok {
				t.Error("the block is gone")
			}
		})
	}
}
