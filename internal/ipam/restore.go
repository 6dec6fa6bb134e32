package ipam

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// RestoreLost puts leases back that this node has not ended and that the store lacks:
// after "kubectl delete sib", or a restore of etcd from a backup. It skips leases whose
// sandbox the runtime does not list, unless the sandbox is new: a runtime may list a
// sandbox only after its interfaces got addresses. If another pod has the address by now,
// the sandbox becomes a former one (lease.Block.Former), and an event reports the conflict.
func (s *Service) RestoreLost(ctx context.Context) error {
	if !s.Allocator.HasLost() {
		return nil
	}
	sandboxes, err := s.Runtime.Sandboxes(ctx)
	if err != nil {
		s.Log.Warn("the container runtime did not list its sandboxes; restoring the removed leases of all of them", "err", err)
	}
	alive := func(l lease.Lease) bool {
		_, listed := sandboxes[l.ContainerID]
		return listed || err != nil
	}
	restored, taken, err := s.Allocator.Restore(ctx, alive, s.MinLeaseAge)
	for _, l := range restored {
		s.Log.Warn("restored a lease that another client had removed", "ip", l.Addr, "pool", l.Pool, "pod", l.Pod, "interface", l.Interface)
		s.Events.LeaseRestored(Pod{PodKey: l.Pod, UID: l.PodUID},
			fmt.Sprintf("another client removed the lease of %s from SpiderIPBlock %s while interface %s used the address; the agent restored it", l.Addr, inet.BlockPrefix(l.Addr), l.Interface))
	}
	for _, l := range slices.SortedFunc(maps.Keys(taken), func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) }) {
		other := taken[l]
		if !l.FixedFor.IsZero() && l.FixedFor == other.FixedFor {
			continue // an agent of an earlier release gave its owner the address
		}
		s.Log.Error("two pods have one address", "ip", l.Addr, "pod", l.Pod, "other", other.Pod, "otherNode", other.Node)
		s.Events.AddressConflict(Pod{PodKey: l.Pod, UID: l.PodUID},
			fmt.Sprintf("%s of interface %s was given to pod %s on node %s after another client had removed its lease; delete one of the two pods", l.Addr, l.Interface, other.Pod, other.Node))
	}
	return err
}
