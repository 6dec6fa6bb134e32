package cloudnetwork

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/observe"
)

// tell brings an event of an agent, and returns the number of networks to reconcile.
func (x *bench) tell(node string, at time.Time) int {
	x.t.Helper()
	return len(x.r.hear(x.t.Context(), &corev1.Event{
		Reason: observe.CloudAddressesChangedReason, InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: node}, LastTimestamp: metav1.NewTime(at),
	}))
}

func TestNewsTakesPrefixOutOfService(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28", "172.31.32.64/28")
	x.pass(0)
	x.pass(time.Minute)
	x.cloud.TakeAway(eni, prefix("172.31.32.64/28"))
	if n := x.tell("worker1", x.clock.Now()); n != 1 {
		t.Fatalf("the news concern %d networks, want 1", n)
	}
	next := x.pass(0)
	if next > cloud.Apart {
		t.Fatalf("the question that confirms the change is in %s", next)
	}
	x.pass(next)
	if got := x.reserved(); got != "172.31.32.64-172.31.32.79" {
		t.Errorf("%q are reserved", got)
	}
}

func TestNewsBringsAssignedPrefix(t *testing.T) {
	x := newBench(t, 4)
	eni := x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.pass(time.Minute)
	x.tell("worker1", x.clock.Now())
	// The API shows the change 30 s later than the metadata service.
	for passed := time.Duration(0); passed < 30*time.Second; {
		x.pass(cloud.Apart)
		passed += cloud.Apart
	}
	x.assign(eni, "172.31.32.64/28")
	for range 5 {
		x.pass(cloud.Apart)
	}
	x.want("aws-worker1-0-v4: 172.31.32.64-172.31.32.79, 172.31.32.176-172.31.32.191")
}

func TestNewsCostsFewCalls(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	x.pass(time.Minute)
	for _, test := range []struct {
		name  string
		every time.Duration // between two events; 0 for a single one
		most  int
	}{{"once", 0, 5}, {"all the time", 2 * time.Second, 24}} {
		t.Run(test.name, func(t *testing.T) {
			x.pass(resyncMax)
			before := x.cloud.Requests()
			x.tell("worker1", x.clock.Now())
			for passed := time.Duration(0); passed < newsTime; {
				step := cloud.Apart
				if test.every > 0 {
					step = test.every
					x.tell("worker1", x.clock.Now())
				}
				passed += step
				x.pass(step)
			}
			if calls := x.cloud.Requests() - before; calls < 1 || calls > test.most {
				t.Errorf("%d calls in two minutes, want 1 to %d", calls, test.most)
			}
		})
	}
}

func TestOtherEventsAreNoNews(t *testing.T) {
	x := newBench(t, 4)
	x.join("worker1", x.subnets[1], "172.31.32.176/28")
	x.pass(0)
	now := x.clock.Now()
	if n := x.tell("worker1", now.Add(-newsTime)); n != 0 {
		t.Error("an old event is news")
	}
	if n := x.tell("elsewhere", now); n != 0 {
		t.Error("an event of an unknown node is news")
	}
	if n := len(x.r.hear(t.Context(), &corev1.Event{Reason: "Started", InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "worker1"}, LastTimestamp: metav1.NewTime(now)})); n != 0 {
		t.Error("an event of another reason is news")
	}
	before := x.cloud.Requests()
	x.pass(time.Second)
	if calls := x.cloud.Requests() - before; calls != 0 {
		t.Errorf("%d calls without news", calls)
	}
}
