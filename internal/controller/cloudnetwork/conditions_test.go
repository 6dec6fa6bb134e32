package cloudnetwork

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// condition checks the reason, and a part of the message.
func (x *bench) condition(reason, part string) {
	x.t.Helper()
	ready, degraded := x.conditions()
	if ready.Reason != reason || !strings.Contains(ready.Message, part) || (ready.Status == metav1.ConditionTrue) != (reason == "PoolsUpToDate") {
		x.t.Fatalf("condition is %+v, want reason %s with %q", ready, reason, part)
	}
	if reason == "PoolsUpToDate" && degraded.Status != metav1.ConditionFalse {
		x.t.Fatalf("condition is %+v", degraded)
	}
}

// degraded fails unless all pools work, and the condition Degraded has the reason.
func (x *bench) degraded(reason, part string) {
	x.t.Helper()
	ready, degraded := x.conditions()
	if ready.Status != metav1.ConditionTrue || degraded.Status != metav1.ConditionTrue || degraded.Reason != reason || !strings.Contains(degraded.Message, part) {
		x.t.Fatalf("conditions are %+v and %+v, want reason %s with %q", ready, degraded, reason, part)
	}
}

// reported fails unless one of the conditions has the reason.
func (x *bench) reported(reason, part string) {
	x.t.Helper()
	ready, degraded := x.conditions()
	if !(ready.Reason == reason && strings.Contains(ready.Message, part)) && !(degraded.Reason == reason && strings.Contains(degraded.Message, part)) {
		x.t.Fatalf("conditions are %+v and %+v, want reason %s with %q", ready, degraded, reason, part)
	}
}

// conditions returns the conditions Ready and Degraded.
func (x *bench) conditions() (ready, degraded metav1.Condition) {
	x.t.Helper()
	for _, c := range x.network().Status.Conditions {
		switch c.Type {
		case status.ConditionReady:
			ready = c
		case status.ConditionDegraded:
			degraded = c
		}
	}
	return ready, degraded
}

// Ready tells whether all nodes have working pools. What stops their growth is in Degraded, unless a node has no pool because of it.
func TestReadyWhilePoolsWork(t *testing.T) {
	for _, tc := range []struct {
		name, reason, part string
		fail               func(x *bench)
	}{
		{"growth is refused", "PermissionMissing", "node worker1 needs more IPv4 addresses: ", func(x *bench) {
			x.cloud.Deny("Assign")
			x.pods("worker1", 20)
		}},
		{"limits are refused", "PermissionMissing", "fake:Limits", func(x *bench) {
			x.cloud.Deny("Limits")
			x.restart()
			x.pods("worker1", 20)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newManagedBench(t, 4)
			x.join("worker1", x.subnets[1])
			x.passes(2)
			x.condition("PoolsUpToDate", "")
			tc.fail(x)
			x.passes(4)
			x.degraded(tc.reason, tc.part)
			x.join("worker2", x.subnets[1]) // gets no pool
			x.pass(stopMax)
			x.passes(4)
			x.condition(tc.reason, "")
		})
	}
}

func TestUncheckedNetworkIsNotDegraded(t *testing.T) {
	x := newManagedBench(t, 4)
	x.join("worker1", x.subnets[1])
	x.fixedAddresses(v2beta1.CloudFixedAddresses{Name: "db", Subnet: x.subnets[1], IPs: []string{fixedIP}})
	x.passes(2)
	x.degraded("RangeNotReserved", "run fake reserve ")
	network := x.network()
	network.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
	if err := x.c.Update(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	x.pass(time.Second)
	x.condition("Invalid", "spec.nodeSelector")
	if _, degraded := x.conditions(); degraded.Status != metav1.ConditionUnknown {
		t.Errorf("the condition is %+v", degraded)
	}
}
