package reclaim

import (
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
)

// TestNodeProvesOnlyItsOwnLeases judges leases of a deleted pod whose agent does not answer.
func TestNodeProvesOnlyItsOwnLeases(t *testing.T) {
	t.Parallel()
	ofNoNode := inUse()
	ofNoNode.Node = ""
	for _, tt := range []struct {
		name  string
		lease lease.Lease
		node  Node
		want  Action
	}{
		{"node gone", inUse(), Node{Presence: Gone}, Free},
		{"node gone, last seen out of service", inUse(), Node{Presence: Gone, OutOfService: true}, Free},
		{"node gone, lease of no node", ofNoNode, Node{Presence: Gone}, Keep},
		{"node out of service", inUse(), Node{Presence: Exists, OutOfService: true}, Free},
		{"node out of service, lease of no node", ofNoNode, Node{Presence: Exists, OutOfService: true}, Keep},
		{"node unread, last seen out of service", inUse(), Node{Presence: Unknown, OutOfService: true}, Keep},
		{"node ready", inUse(), Node{Presence: Exists, Ready: true}, Keep},
		{"node unread", inUse(), Node{}, Keep},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := Facts{Age: time.Hour, Pod: Pod{Presence: Gone}, Node: tt.node}
			if v := Judge(tt.lease, f, policy()); v.Action != tt.want {
				t.Errorf("verdict is %+v, want the action %v", v, tt.want)
			}
		})
	}
}

func TestZeroRetentionFreesAtOnce(t *testing.T) {
	t.Parallel()
	p := policy()
	p.ScaledDownRetention = 0
	l := retained(inUse())
	l.Since = now
	if v := Judge(l, Facts{Owner: OwnerScaledDown}, p); v.Action != Free || v.Reason != FixedScaledDown {
		t.Errorf("verdict is %+v", v)
	}
}
