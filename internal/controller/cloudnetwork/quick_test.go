//go:build scale

package cloudnetwork

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// wallUntil reconciles whenever the reconciler wants, and returns how long it takes until the condition holds: the pauses by the fake clock, and
// the time of the calls by the real one.
func (w *wire) wallUntil(holds func() bool) time.Duration {
	w.t.Helper()
	passed := time.Duration(0)
	for range 100 {
		began := time.Now()
		next, err := w.reconcile()
		if err != nil {
			w.t.Fatal(err)
		}
		took := time.Since(began)
		passed += took
		w.clock.SetTime(w.clock.Now().Add(took))
		if holds() {
			return passed
		}
		passed += next
		w.clock.SetTime(w.clock.Now().Add(next))
	}
	w.t.Fatal("it never happens")
	return 0
}

func (w *wire) full(pool string, n int64) func() bool {
	return func() bool {
		p := w.pools()[pool]
		return p != nil && len(p.Spec.IPs) > 0 && w.pool4().Count() >= n
	}
}

// joinTime is the longest time until a node that joins has its pool.
const joinTime = 2 * time.Second

// TestAddressesComeQuickly measures with latencies of EC2.
func TestAddressesComeQuickly(t *testing.T) {
	w := newManagedWire(t, 4, 6)
	w.ec2.SetLatency(ec2test.TypicalLatency())
	t.Logf("a new leader: %s", w.wallUntil(w.full("aws-worker1-0-v4", 16)))
	w.start("worker2", ec2test.Instance{})
	took := w.wallUntil(func() bool { return w.pools()["aws-worker2-0-v4"] != nil })
	if t.Logf("a node that joins: %s", took); took > joinTime {
		t.Errorf("a node that joins has its pool after %s, more than %s", took, joinTime)
	}
	w.clock.SetTime(w.clock.Now().Add(time.Minute))
	w.pods("worker1", 20)
	t.Logf("a full node: %s", demandDelay+w.wallUntil(w.full("aws-worker1-0-v4", 32)))
	w = newAttachWire(t, 4)
	w.run(30 * time.Second)
	w.ec2.SetLatency(ec2test.TypicalLatency())
	w.start("worker2", ec2test.Instance{})
	t.Logf("a node that joins, with attach: %s", w.wallUntil(func() bool { return w.pools()["aws-worker2-1-v4"] != nil }))
}
