package cloudnetwork

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
)

const (
	// maxChanges is the greatest number of calls that have begun and not ended. The field status.changes takes more.
	maxChanges = 64
	// parallelCalls is the number of calls at one time.
	parallelCalls = 8
	// endedTime is how long we remember that a call has ended: longer than a cache is behind.
	endedTime = 10 * time.Minute
)

// call is a call that changes the cloud. After an error of the kind cloud.Unknown, it may have done so, or may do so yet.
type call struct {
	v2beta1.CloudChange
	do  func(ctx context.Context) error
	err error
}

// doubt is a call whose outcome is not known.
type doubt struct {
	node  string
	addr  netip.Addr // of a fixed address
	since time.Time  // when it ended, or when this process learned of it
}

func (s *session) newCall(node, iface string, action v2beta1.CloudAction, do func(ctx context.Context) error) *call {
	id := strconv.FormatUint(uint64(s.jitter(math.MaxInt64)), 36)
	return &call{CloudChange: v2beta1.CloudChange{ID: id, Node: node, Interface: iface, Action: action}, do: do}
}

// run makes the calls. It first writes them into the status, and makes none if another process has written there since this one has
// read: a former leader may still run for a moment. A call ends at callTimeout after that, so a process that sleeps between the write and
// the call makes none, and a new leader knows how long to wait.
func (r *Reconciler) run(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, calls []*call) error {
	limit, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.record(limit, network, s, calls); err != nil {
		return fmt.Errorf("write the next calls of the cloud into the status: %w", err)
	}
	var group errgroup.Group
	group.SetLimit(parallelCalls)
	for _, c := range calls {
		group.Go(func() error {
			c.err = c.do(limit)
			return nil
		})
	}
	_ = group.Wait() // each call has its own error
	now := r.clock.Now()
	for _, c := range calls {
		if c.err != nil && cloud.KindOf(c.err) == cloud.Unknown {
			s.doubts[c.ID] = doubt{c.Node, addrOf(c.CloudChange), now}
			continue
		}
		s.ended[c.ID], s.changed[c.Node] = now, now
	}
	if err := r.record(ctx, network, s, nil); err != nil {
		r.log.WarnContext(ctx, "cannot write the end of calls into the status; the next write has it", "err", err)
	}
	return nil
}

// addrOf returns the fixed address of a call, the zero value for none.
func addrOf(c v2beta1.CloudChange) netip.Addr {
	a, _ := netip.ParseAddr(c.Address)
	return a
}

// record writes the calls that begin, and removes those that have ended.
func (r *Reconciler) record(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, begin []*call) error {
	before := network.DeepCopy()
	network.Status.Changes = slices.DeleteFunc(network.Status.Changes, func(c v2beta1.CloudChange) bool {
		_, ended := s.ended[c.ID]
		return ended
	})
	for _, c := range begin {
		network.Status.Changes = append(network.Status.Changes, c.CloudChange)
	}
	if len(begin) == 0 && len(network.Status.Changes) == len(before.Status.Changes) {
		return nil
	}
	return behind(r.client.Status().Patch(ctx, network, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
}

// doubt returns the nodes with a call whose outcome is not known. A doubt ends when the call cannot happen any more, and two
// answers after that show what is. again are the nodes to ask about for that.
func (s *session) doubt(now time.Time, changes []v2beta1.CloudChange, nodes []member) (busy map[string]bool, again []string) {
	for _, c := range changes {
		_, known := s.doubts[c.ID]
		if _, ended := s.ended[c.ID]; !known && !ended {
			s.doubts[c.ID] = doubt{c.Node, addrOf(c), now} // of a former process
		}
	}
	for id, at := range s.ended {
		if now.Sub(at) > endedTime && !slices.ContainsFunc(changes, func(c v2beta1.CloudChange) bool { return c.ID == id }) {
			delete(s.ended, id)
		}
	}
	instances := map[string]string{}
	for _, n := range nodes {
		instances[n.node] = n.instance
	}
	busy = map[string]bool{}
	for id, d := range s.doubts {
		over := d.since.Add(callTimeout)
		instance := instances[d.node] // empty for a node that has gone, or has no instance any more
		switch {
		case now.Before(over):
			busy[d.node] = true
		case instance != "" && !s.histories[instance].Since(over):
			busy[d.node] = true
			again = append(again, d.node)
		default:
			delete(s.doubts, id)
			s.ended[id] = now
			s.own.relist()
		}
	}
	return busy, again
}
