package nodeguard

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// orphan is something of a pod that seems to be gone.
type orphan struct {
	name   string
	remove func() error
}

// collectOrphans removes what has been left over for MinAge. Where nothing is known for
// certain, nothing is left over, and its time starts anew.
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
			m.Log.Warn("cannot remove what is left of a pod", "what", l.name, "err", err)
			candidates[l.name] = since
			continue
		}
		m.Log.Info("removed what was left of a pod", "what", l.name, "since", since)
	}
	m.orphanCandidates = candidates
}

// orphanPairs are the veth pairs of sandboxes that the runtime does not know.
func (m *Maintainer) orphanPairs(ctx context.Context, host *linux.Namespace) []orphan {
	pairs, err := host.Pairs()
	if err != nil {
		m.Log.Warn("cannot list the pods' links", "err", err)
	}
	if len(pairs) == 0 {
		return nil
	}
	// Asked after the pairs were listed: what is there has a sandbox by then.
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

// orphanRoutes are the routes to addresses that no pod holds, over links that do not
// go with their pods: those of an overlay network.
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
	// Asked after the routes were listed: a route is made for a lease that is there.
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
