package cloudnetwork

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// lostWait is the longest time until a process acts again after it has lost an answer: a moment, two answers that are cloud.Apart apart,
// and the pause after a refusal.
const lostWait = 10 * time.Second

// wantWithin reconciles whenever the reconciler wants, and fails unless the condition holds within a time.
func (x *bench) wantWithin(within time.Duration, what string, holds func() bool) {
	x.t.Helper()
	began := x.clock.Now()
	for !holds() {
		next, err := x.reconcile()
		if err != nil {
			x.t.Fatal(err)
		}
		if !holds() {
			x.clock.SetTime(x.clock.Now().Add(next))
		}
		if x.clock.Now().Sub(began) > 10*time.Minute {
			break
		}
	}
	took := x.clock.Now().Sub(began)
	x.t.Logf("%s after %s", what, took)
	if took > within {
		x.t.Errorf("%s after %s, more than %s", what, took, within)
	}
}

func TestLostAssignmentDelaysLittle(t *testing.T) {
	for _, tc := range []struct {
		name     string
		done     bool
		returned time.Duration // how long ago the node gave back the prefix that the cloud assigns
		full     bool          // the interface takes no third prefix
		want     string        // the second prefix; empty for any
	}{
		{"carried out", true, 0, false, "172.31.32.32/28"},
		{"not carried out", false, 0, false, "172.31.32.32/28"},
		{"prefix was returned just now", true, time.Second, false, ""}, // it goes back again, and the next one may come before that
		{"prefix was returned just now, full", true, time.Second, true, "172.31.32.32/28"},
		{"prefix was returned long ago", true, 2 * staleMax, false, "172.31.32.32/28"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			if tc.full {
				x.cloud.AddType("m5.large", cloud.Limits{Interfaces: 3, IPv4: 3, IPv6: 3, Prefixes: true})
			}
			eni := x.join("worker1", x.subnets[1])
			if tc.returned > 0 {
				x.pods("worker1", 20)
			}
			x.pass(0)
			if tc.returned > 0 {
				x.removePods()
				x.wantWithin(10*time.Minute, "the prefix is returned", func() bool { return len(x.assigned(eni)) == 1 })
			}
			x.run(tc.returned)
			x.pods("worker1", 20)
			x.cloud.Fail(cloudtest.Fault{Method: "Assign", Kind: cloud.Unknown, Done: tc.done})
			x.pass(time.Minute) // the last answer is old
			x.pass(100 * time.Millisecond)
			if open := x.network().Status.Changes; len(open) != 1 {
				t.Fatalf("the open calls are %v", open)
			}
			x.wantWithin(lostWait, "the pool has a second prefix", func() bool {
				pool, _ := compile.Pool(x.pools()["aws-worker1-0-v4"])
				return pool.IPs.Count() >= 2*inet.BlockSize && x.reserved() == "" && !x.withheld().Overlaps(pool.IPs)
			})
			x.passes(2)
			if is := x.assigned(eni); len(is) != 2 || tc.want != "" && is[1] != prefix(tc.want) {
				t.Errorf("the interface has %v, want a second prefix %s", is, tc.want)
			}
			if pool := x.node4(); pool.Count() != 2*inet.BlockSize || x.withheld().Overlaps(pool) {
				t.Errorf("the pool has %s, and %s are withheld", pool, x.withheld())
			}
		})
	}
}

func TestLostInterfaceCallDelaysLittle(t *testing.T) {
	for _, method := range []string{"Create", "Attach"} {
		for name, done := range map[string]bool{"carried out": true, "not carried out": false} {
			t.Run(method+" "+name, func(t *testing.T) {
				x := newAttachBench(t)
				x.join("worker1", x.subnets[1])
				x.run(time.Minute)
				x.cloud.Fail(cloudtest.Fault{Method: method, Kind: cloud.Unknown, Done: done})
				x.join("worker2", x.subnets[1])
				x.wantWithin(lostWait, "the node has its addresses", func() bool { return x.pools()["aws-worker2-1-v4"] != nil })
				if n := len(x.own()); n != 2 {
					t.Errorf("our interfaces are %v", x.own())
				}
			})
		}
	}
}
