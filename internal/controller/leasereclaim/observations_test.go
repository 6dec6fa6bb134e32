package leasereclaim

import (
	"net/netip"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// The stored times are those of a node with a clock a year ahead; the durations are ours.
func TestDurationsBeginWithOwnLook(t *testing.T) {
	start := time.Now()
	l := lease.Lease{Addr: netip.MustParseAddr("10.0.0.1"), State: lease.Retained, Since: start.AddDate(1, 0, 0)}
	former := lease.Former{Addr: l.Addr, Holder: lease.Holder{Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}}}
	block := lease.Block{Leases: []lease.Lease{l}, Former: []lease.Former{former}}
	var o observations
	for _, step := range []struct {
		at              time.Duration
		owner           reclaim.Owner
		terminating     bool
		unwanted, ended time.Duration // wanted durations
	}{
		{0, reclaim.OwnerWanted, false, 0, 0},
		{time.Minute, reclaim.OwnerScaledDown, true, 0, 0},
		{3 * time.Minute, reclaim.OwnerLeft, true, 2 * time.Minute, 2 * time.Minute},
		{4 * time.Minute, reclaim.OwnerWanted, false, 0, 0}, // it came back
		{5 * time.Minute, reclaim.OwnerScaledDown, true, 0, 0},
	} {
		now := start.Add(step.at)
		facts := func(lease.Lease) reclaim.Facts {
			return reclaim.Facts{Owner: step.owner, Pod: reclaim.Pod{Terminating: step.terminating}}
		}
		complete := o.look("b", block, facts, now).complete(facts, now)
		if f := complete(l); f.Age != step.at || f.Unwanted != step.unwanted {
			t.Errorf("after %s: age %s, unwanted for %s, want %s", step.at, f.Age, f.Unwanted, step.unwanted)
		}
		if f := complete(former.AsLease()); f.Age != step.at || f.Terminating != step.ended {
			t.Errorf("after %s: age of the former sandbox %s, its pod terminating for %s, want %s", step.at, f.Age, f.Terminating, step.ended)
		}
	}
	o.forget("b")
	if len(o.blocks) != 0 {
		t.Error("a deleted block is remembered")
	}
}
