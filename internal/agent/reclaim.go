package agent

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

// endedInterval is the time between two checks of the leases of ended pods. A lease
// remains if the pod's DEL was lost.
const endedInterval = 5 * time.Second

// endedPods is a set of UIDs: the finished, terminating and deleted pods of the node,
// which may still hold leases.
type endedPods struct {
	mu   sync.Mutex
	uids map[string]struct{}
}

func (e *endedPods) add(uid string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.uids == nil {
		e.uids = map[string]struct{}{}
	}
	e.uids[uid] = struct{}{}
}

// take returns the UIDs and empties the set.
func (e *endedPods) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	uids := slices.Collect(maps.Keys(e.uids))
	e.uids = nil
	return uids
}

// reclaimEnded reclaims the leases of ended pods. Pods that it cannot judge yet stay in
// the set.
func (a *agent) reclaimEnded(ctx context.Context, policy reclaim.Policy) {
	uids := a.ended.take()
	if len(uids) == 0 || !policy.Enabled {
		return
	}
	left, err := a.service.ReclaimOf(ctx, policy, uids...)
	for _, uid := range left {
		a.ended.add(uid)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("cannot reclaim the addresses of ended pods", "err", err)
	}
}
