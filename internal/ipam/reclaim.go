package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Reclaim frees the addresses of sandboxes that ended without a DEL. Two things must
// hold: the pod is not entitled to the address (package reclaim), and the runtime does
// not list the sandbox. This is the node's half of reclaim; the controller handles
// nodes that are gone.
func (s *Service) Reclaim(ctx context.Context, policy reclaim.Policy) error {
	if !policy.Enabled || !s.Allocator.Loaded() {
		return nil
	}
	return s.reclaim(ctx, policy, s.Allocator.HeldFor(policy.MinAge))
}

// ReclaimOf is Reclaim for the ended or terminating pods with the UIDs. It returns the
// UIDs of the pods that still hold addresses.
func (s *Service) ReclaimOf(ctx context.Context, policy reclaim.Policy, uids ...string) (left []string, err error) {
	for _, uid := range uids {
		s.terminating.age(uid, s.Now())
	}
	leases := slices.DeleteFunc(s.Allocator.HeldFor(policy.MinAge), func(l lease.Lease) bool { return !slices.Contains(uids, l.PodUID) })
	err = s.reclaim(ctx, policy, leases)
	return slices.DeleteFunc(slices.Clone(uids), func(uid string) bool { return len(s.inUse(uid)) == 0 }), err
}

func (s *Service) inUse(podUID string) []lease.Lease {
	return slices.DeleteFunc(s.Allocator.OfPod(podUID), func(l lease.Lease) bool { return l.State != lease.InUse })
}

func (s *Service) reclaim(ctx context.Context, policy reclaim.Policy, leases []lease.Lease) error {
	s.terminating.keep(func(uid string) bool { return len(s.inUse(uid)) > 0 })
	return s.withoutSandbox(ctx, leases, func(l lease.Lease, otherSandbox bool) error {
		return s.reclaimOne(ctx, l, otherSandbox, policy)
	})
}

// withoutSandbox calls end for the leases whose sandbox the runtime does not list, and
// says whether it lists another one of the pod.
func (s *Service) withoutSandbox(ctx context.Context, leases []lease.Lease, end func(l lease.Lease, otherSandbox bool) error) error {
	if len(leases) == 0 {
		return nil
	}
	// The leases were read before the sandboxes, so a newer sandbox is in neither list.
	sandboxes, err := s.Runtime.Sandboxes(ctx)
	if err != nil {
		return &Error{Kind: Unavailable, Msg: "the container runtime did not list its sandboxes, so nothing was reclaimed", Details: err.Error(), Err: err}
	}
	pods := make(map[string]bool, len(sandboxes)) // UIDs of those with a sandbox
	for _, uid := range sandboxes {
		pods[uid] = true
	}
	var errs []error
	for _, l := range leases {
		if _, alive := sandboxes[l.ContainerID]; alive {
			continue
		}
		if err := end(l, pods[l.PodUID]); err != nil {
			errs = append(errs, fmt.Errorf("%s of pod %s: %w", l.Addr, l.Pod, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) reclaimOne(ctx context.Context, l lease.Lease, otherSandbox bool, policy reclaim.Policy) error {
	facts := reclaim.Facts{Age: policy.MinAge, Sandbox: reclaim.NotPresent, OtherSandbox: otherSandbox}
	var err error
	if facts.Pod, err = s.Cluster.PodState(ctx, l.Pod); err != nil {
		return err
	}
	if facts.Pod.Terminating {
		facts.Terminating = s.terminating.age(l.PodUID, s.Now())
		if facts.Node, err = s.Cluster.NodeState(ctx); err != nil {
			return err
		}
	}
	verdict := reclaim.Judge(l, facts, policy)
	// The release retains an address with a fixed owner and frees any other.
	if verdict.Action != reclaim.Free && verdict.Action != reclaim.Retain {
		return nil
	}
	return s.reclaimLease(ctx, l, verdict.Reason, verdict.Message)
}

// terminating are the pods that this process knows as terminating, by UID. It counts their
// grace period from its own first look: deletionTimestamp comes from the API server's clock.
type terminating struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// age returns for how long the pod has been known as terminating, and notes a first look.
func (t *terminating) age(uid string, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, ok := t.since[uid]
	if !ok {
		if t.since == nil {
			t.since = map[string]time.Time{}
		}
		since, t.since[uid] = now, now
	}
	return now.Sub(since)
}

// keep forgets the other pods.
func (t *terminating) keep(wanted func(uid string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.since, func(uid string, _ time.Time) bool { return !wanted(uid) })
}

// reclaimLease releases a lease without a DEL, and reports why.
func (s *Service) reclaimLease(ctx context.Context, l lease.Lease, reason reclaim.Reason, because string) error {
	err := s.release(ctx, wire.Attachment{
		ContainerID: l.ContainerID, Interface: l.Interface, PodNamespace: l.Pod.Namespace, PodName: l.Pod.Name, PodUID: l.PodUID,
	})
	s.Observer.Reclaimed(reason, err)
	if err != nil {
		return err
	}
	s.announce(l, reason, because)
	return nil
}

// reportReplaced reports a lease that was released although it was retained for an
// owner, because the owner got other addresses.
func (s *Service) reportReplaced(l lease.Lease) {
	const because = "its owner came back, and the address no longer fits its interfaces, IP families or pools"
	s.announce(l, reclaim.FixedReplaced, because)
	s.Observer.Reclaimed(reclaim.FixedReplaced, nil)
}

// announce reports a reclaimed lease in the log and in an event.
func (s *Service) announce(l lease.Lease, reason reclaim.Reason, because string) {
	s.Log.Info("reclaimed an address", "ip", l.Addr, "pool", l.Pool, "pod", l.Pod, "interface", l.Interface,
		"container", l.ContainerID, "reason", reason, "because", because)
	s.Events.Reclaimed(Pod{PodKey: l.Pod, UID: l.PodUID},
		reclaim.Change{Lease: l, Verdict: reclaim.Verdict{Action: reclaim.Free, Reason: reason, Message: because}})
}

// GC releases the leases of this node's sandboxes that are no longer valid. The list of
// the caller is not enough: it covers one network, and the lease may belong to another
// whose ADD is in progress. So the lease must be older than MinLeaseAge, the pod must
// be gone, and the runtime must not list the sandbox.
func (s *Service) GC(ctx context.Context, req wire.GCRequest) error {
	if !s.Allocator.Loaded() {
		return notReady(ErrNotReady)
	}
	valid := make(map[string]bool, len(req.Valid))
	for _, v := range req.Valid {
		valid[v.ContainerID] = true
	}
	leases := slices.DeleteFunc(s.Allocator.HeldFor(s.MinLeaseAge), func(l lease.Lease) bool { return valid[l.ContainerID] })
	err := s.withoutSandbox(ctx, leases, func(l lease.Lease, _ bool) error {
		if gone, err := s.podGone(ctx, l); err != nil || !gone {
			return err
		}
		return s.reclaimLease(ctx, l, reclaim.PodGone,
			fmt.Sprintf("the pod is no longer on node %s, and the runtime has no sandbox %s", s.Node, l.ContainerID))
	})
	if err != nil && !errors.As(err, new(*Error)) {
		return notReady(err)
	}
	return err
}

// podGone reports whether the holder of a lease is no longer a pod of this node.
func (s *Service) podGone(ctx context.Context, l lease.Lease) (bool, error) {
	_, err := s.Cluster.Pod(ctx, l.Pod, l.PodUID)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrElsewhere) {
		return true, nil
	}
	return false, err
}
