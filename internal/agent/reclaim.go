package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// endedInterval is how often the leases of pods that end are looked at, as long as
// there are any: their DEL may have been lost.
const endedInterval = 5 * time.Second

// endedPods are the UIDs of pods of the node that have finished, are being deleted
// or are gone, and may hold leases.
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

// take returns the UIDs and forgets them.
func (e *endedPods) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	uids := slices.Collect(maps.Keys(e.uids))
	e.uids = nil
	return uids
}

// reclaimEnded takes back what pods that end have left behind, and keeps in mind
// those of which it is too early to say.
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
		a.log.Warn("cannot take back the addresses of pods that have ended", "err", err)
	}
}

// reclaimPolicy is what the installation allows an agent to take back.
func reclaimPolicy(cfg config.Agent, minLeaseAge time.Duration) reclaim.Policy {
	policy := cfg.IPAM.ReclaimPolicy()
	policy.MinAge = cmp.Or(minLeaseAge, policy.MinAge)
	return policy
}
