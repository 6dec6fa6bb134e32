package ipam

import (
	"context"
	"errors"
	"fmt"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Reclaim takes back the addresses of this node's sandboxes that are gone without
// a DEL: those whose pod has no claim any more (package reclaim) and whose sandbox
// the runtime says is gone. It is the half of reclaim that needs the node; nodes
// that are gone themselves are the controller's.
func (s *Service) Reclaim(ctx context.Context, policy reclaim.Policy) error {
	if !policy.Enabled || !s.Allocator.Loaded() {
		return nil
	}
	now := s.Now()
	// The leases first: a sandbox that is made after this is in neither list.
	leases := s.Allocator.HeldBy(func(l lease.Lease) bool { return now.Sub(l.Since) >= policy.MinAge })
	if len(leases) == 0 {
		return nil
	}
	sandboxes, err := s.Runtime.Sandboxes(ctx)
	if err != nil {
		return fmt.Errorf("ask the container runtime: %w", err)
	}
	var errs []error
	for _, l := range leases {
		if sandboxes[l.ContainerID] {
			continue
		}
		if err := s.reclaimOne(ctx, l, policy); err != nil {
			errs = append(errs, fmt.Errorf("%s of pod %s: %w", l.Addr, l.Pod, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) reclaimOne(ctx context.Context, l lease.Lease, policy reclaim.Policy) error {
	namespace, name := splitPod(l.Pod)
	state, err := s.Cluster.PodState(ctx, namespace, name)
	if err != nil {
		return err
	}
	verdict := reclaim.Judge(l, reclaim.Facts{
		Pod:     state,
		Node:    reclaim.Node{Presence: reclaim.Exists, Ready: true},
		Sandbox: reclaim.NotPresent,
	}, policy, s.Now())
	// Of an address that is kept for its owner the release makes a retained one.
	if verdict.Action != reclaim.Free && verdict.Action != reclaim.Retain {
		return nil
	}
	err = s.release(ctx, Release{Attachment: l.Attachment, Namespace: namespace, Pod: name, PodUID: l.PodUID}, always)
	s.Observer.Reclaimed(err)
	if err != nil {
		return err
	}
	message := fmt.Sprintf("took back %s of pool %s (%s): %s", l.Addr, l.Pool, verdict.Reason, verdict.Message)
	s.Log.Info("reclaimed an address", "ip", l.Addr, "pool", l.Pool, "pod", l.Pod, "interface", l.Interface,
		"container", l.ContainerID, "reason", verdict.Reason, "because", verdict.Message)
	s.Events.Reclaimed(Pod{Namespace: namespace, Name: name, UID: l.PodUID}, message)
	return nil
}
