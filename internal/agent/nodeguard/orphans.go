package nodeguard

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// orphan is the kernel state of a pod that seems to be gone: a link or a route.
type orphan struct {
	name   string
	remove func() error
}

// collectOrphans removes the orphans older than MinAge. While leases or sandboxes are
// unknown, nothing counts as an orphan, and its age starts again at zero.
func (m *Maintainer) collectOrphans(ctx context.Context, host *linux.Namespace) {
	found := append(m.orphanPairs(ctx, host), m.orphanRoutes(host)...)
	now := m.Now()
	candidates := make(map[string]time.Time, len(found))
	for _, l := range found {
		since, ok := m.orphanCandidates[l.name]
		if !ok {
			since = now
		}
		if now.Sub(since) < m.MinAge {
			candidates[l.name] = since
			continue
		}
		if err := l.remove(); err != nil {
			m.Log.Warn("cannot remove an orphan of a deleted pod", "orphan", l.name, "err", err)
			candidates[l.name] = since
			continue
		}
		m.Log.Info("removed an orphan of a deleted pod", "orphan", l.name, "since", since)
	}
	m.orphanCandidates = candidates
}

// orphanPairs returns the veth pairs of sandboxes that the runtime does not list.
func (m *Maintainer) orphanPairs(ctx context.Context, host *linux.Namespace) []orphan {
	pairs, err := host.Pairs()
	if err != nil {
		m.Log.Warn("cannot list the pods' links", "err", err)
	}
	if len(pairs) == 0 {
		return nil
	}
	// List the sandboxes after the pairs: the sandbox of a living pair exists by then.
	sandboxes, err := m.Sandboxes(ctx)
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	for id := range sandboxes {
		known[netplan.VethPairOf(id).Host] = true
	}
	var orphans []orphan
	for _, name := range pairs {
		if !known[name] {
			orphans = append(orphans, orphan{"link " + name, func() error {
				return host.Delete(netplan.State{netplan.Link{Name: name, Kind: "veth"}})
			}})
		}
	}
	return orphans
}

// orphanRoutes returns the routes to addresses without a lease, over permanent links:
// those of an overlay network. Other links vanish with their pods.
func (m *Maintainer) orphanRoutes(host *linux.Namespace) []orphan {
	routes, err := host.HostRoutes()
	if err != nil {
		m.Log.Warn("cannot list the routes to the node's pods", "err", err)
		return nil
	}
	var addrs []netip.Addr
	for _, r := range routes {
		if !netplan.IsHostVeth(r.Route.Dev) {
			addrs = append(addrs, r.Route.Dst.Addr())
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	// Read the leases after the routes: the lease of a living route exists by then.
	unleased, err := m.Unleased(addrs)
	if err != nil {
		return nil
	}
	var orphans []orphan
	for _, r := range routes {
		if !netplan.IsHostVeth(r.Route.Dev) && slices.Contains(unleased, r.Route.Dst.Addr()) {
			orphans = append(orphans, orphan{r.Route.String(), func() error { return host.DeleteHostRoute(r) }})
		}
	}
	return orphans
}
