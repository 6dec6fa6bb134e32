package cloudnetwork

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// A damaged SpiderIPBlock holds the return of its own piece, and no other.
func TestDamagedBlockHoldsItsPieceOnly(t *testing.T) {
	x, eni := returnedBench(t)
	two := x.join("worker2", x.subnets[1])
	x.assign(two, "172.31.32.128/28", "172.31.32.144/28")
	damaged := blockOf("worker1", "aws-worker1-0-v4", "172.31.32.32", "172.31.32.33", x.clock.Now())
	damaged.Spec.Leases[0].IP = "none"
	x.create(damaged)
	x.run(8 * time.Minute)
	x.wantAssigned(two, "172.31.32.128/28")
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	if x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47", "aws-worker2-0-v4: 172.31.32.128-172.31.32.143"); x.reserved() != "" {
		t.Errorf("%s are reserved", x.reserved())
	}
}

// What the controller remembers about nodes goes with them.
func TestMemoryGoesWithNodes(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.pass(0)
	s := x.r.sessions["aws"]
	at := cloud.Position{Instance: "i-gone", Device: 1}
	s.own.attempts[at] = 2
	s.own.stops[at.String()] = s.newStop(x.clock.Now(), nil, cloud.Issue{})
	s.stops[cloud.Place{ID: "eni-gone", Family: inet.IPv4}] = s.newStop(x.clock.Now(), nil, cloud.Issue{})
	s.changed["gone"], s.fragmented["subnet-gone"] = x.clock.Now(), x.clock.Now().Add(fragmentedTime)
	x.run(4 * stopMax)
	if n := len(s.own.attempts) + len(s.own.stops) + len(s.stops) + len(s.changed) + len(s.fragmented); n > 0 {
		t.Errorf("the memory has %v %v %v %v %v", s.own.attempts, s.own.stops, s.stops, s.changed, s.fragmented)
	}
}
