package alloc

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// HasLost reports whether the store lacks leases that this node has not ended.
func (a *Allocator) HasLost() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.mu.lost) > 0
}

// Restore writes the lost leases for which alive returns true, and those that this process
// has known for less than minAge. It returns them, and those whose address another holder
// has now, with that holder's lease.
func (a *Allocator) Restore(ctx context.Context, alive func(lease.Lease) bool, minAge time.Duration) (restored []lease.Lease, taken map[lease.Lease]lease.Lease, err error) {
	isLost := func(l lease.Lease) bool { return a.mu.lost[holdingKey{l.Addr, l.Attachment}].ContainerID != "" }
	var settled []holdingKey
	_, err = a.change(ctx, isLost, func(now time.Time) []lease.Block {
		restored, taken, settled = nil, map[lease.Lease]lease.Lease{}, nil
		writes := map[netip.Addr]lease.Block{}
		for key, l := range a.mu.lost {
			base := inet.BlockOf(key.addr)
			b, ok := writes[base]
			if !ok {
				b, _ = a.mu.index.Block(base)
			}
			settled = append(settled, key)
			switch holder, _ := b.Lease(key.addr); {
			case !b.Holds(l): // ended since
			case !alive(l) && a.config.Now().Sub(a.mu.holdings[key].since) >= minAge:
				writes[base], _ = b.Release(key.at, now)
			case !l.OfFormer() && holder.State == lease.InUse && holder.Attachment != key.at:
				taken[l], writes[base] = holder, b
			default:
				restored, writes[base] = append(restored, l), b
			}
		}
		return slices.Collect(maps.Values(writes))
	})
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range settled {
		delete(a.mu.lost, key)
	}
	return restored, taken, nil
}
