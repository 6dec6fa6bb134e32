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
	v2beta1.CloudChange
	over time.Time // it does not happen later, or does no harm then; two later answers show its effect
	// pool and had are set for an assignment of this process: the pool that grows, and what the interface had before.
	pool string
	had  []netip.Prefix
}

// lostTime is how long the process that has lost the answer to a call waits before it looks.
//
// Most calls do no harm if they happen late, or twice: an assignment gives the interface a spare prefix that goes back later, a token makes a
// repeated creation return the same interface, and it is attached to the same place or deleted again. But an address that is unassigned
// or moved late may be in use elsewhere by then.
func lostTime(c v2beta1.CloudChange) time.Duration {
	if c.Action == v2beta1.CloudUnassign || c.Address != "" {
		return callTimeout
	}
	return time.Second
}

func (s *session) newCall(node, iface string, action v2beta1.CloudAction, do func(ctx context.Context) error) *call {
	id := strconv.FormatUint(uint64(s.jitter(math.MaxInt64)), 36)
	return &call{CloudChange: v2beta1.CloudChange{ID: id, Node: node, Interface: iface, Action: action}, do: do}
}

// run makes the calls, and removes those that have ended from the status.
func (r *Reconciler) run(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, calls []*call) error {
	err := r.runOpen(ctx, network, s, calls)
	if err == nil {
		r.recordEnd(ctx, network, s)
	}
	return err
}

// runOpen makes the calls, and leaves them in the status until recordEnd. It first writes them there, and makes none if another process has
// written there since this one has read: a former leader may still run for a moment. A call ends at callTimeout after that, so a process
// that sleeps between the write and the call makes none, and a new leader knows how long to wait.
func (r *Reconciler) runOpen(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, calls []*call) error {
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
			s.doubts[c.ID] = doubt{CloudChange: c.CloudChange, over: now.Add(lostTime(c.CloudChange))}
			continue
		}
		s.ended[c.ID], s.changed[c.Node] = now, now
	}
	return nil
}

// recordEnd removes the calls that have ended. The next write has what this one cannot write.
func (r *Reconciler) recordEnd(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session) {
	if err := r.record(ctx, network, s, nil); err != nil {
		r.log.WarnContext(ctx, "cannot write the end of calls into the status; the next write has it", "err", err)
	}
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
func (s *session) doubt(now time.Time, network *v2beta1.SpiderCloudNetwork, nodes []member) (busy map[string]bool, again []string) {
	changes := network.Status.Changes
	for _, c := range changes {
		_, known := s.doubts[c.ID]
		if _, ended := s.ended[c.ID]; !known && !ended { // of a former process, which may still make the call
			s.doubts[c.ID] = doubt{CloudChange: c, over: now.Add(callTimeout)}
			if a := addrOf(c); c.Action == v2beta1.CloudMove {
				s.fixed.tried[a] = append(s.fixed.tried[a], c.Interface)
			}
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
		instance := instances[d.Node] // empty for a node that has gone, or has no instance any more
		history := s.histories[instance]
		if !now.Before(d.over) && d.concernsInterfaces() {
			s.own.lookSince(now, d.over)
		}
		unseen := instance != "" && !history.Since(d.over)
		if unseen {
			s.askBy(now, d.Node, history.Next(d.over))
			again = append(again, d.Node)
		}
		if unseen || now.Before(d.over) {
			busy[d.Node] = true
		} else {
			s.regained(network.Name, d.pool, history.Gained(d.Interface, d.had))
			if d.Action == v2beta1.CloudAssign {
				s.lostAssignment(d.Interface)
			}
			delete(s.doubts, id)
			s.ended[id] = now
		}
	}
	return busy, again
}

// concernsInterfaces reports whether the listings of interfaces show what the call did.
func (d doubt) concernsInterfaces() bool {
	return d.Action != v2beta1.CloudAssign && d.Action != v2beta1.CloudUnassign
}
