package nodeguard

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// leftover is something of a pod that seems to be gone.
type leftover struct {
	name   string
	remove func() error
}

// collect removes what has been left over for MinAge. Where nothing is known for
// certain, nothing is left over, and its time starts anew.
func (u *Upkeep) collect(ctx context.Context, host *linux.Namespace) {
	found := append(u.leftPairs(ctx, host), u.leftRoutes(host)...)
	now := u.Now()
	suspects := make(map[string]time.Time, len(found))
	for _, l := range found {
		since, ok := u.suspects[l.name]
		if !ok {
			since = now
		}
		if now.Sub(since) < u.MinAge {
			suspects[l.name] = since
			continue
		}
		if err := l.remove(); err != nil {
			u.Log.Warn("cannot remove what is left of a pod", "what", l.name, "err", err)
			suspects[l.name] = since
			continue
		}
		u.Log.Info("removed what was left of a pod", "what", l.name, "since", since)
	}
	u.suspects = suspects
}

// leftPairs are the veth pairs of sandboxes that the runtime does not know.
func (u *Upkeep) leftPairs(ctx context.Context, host *linux.Namespace) []leftover {
	pairs, err := host.Pairs()
	if err != nil {
		u.Log.Warn("cannot list the pods' links", "err", err)
	}
	if len(pairs) == 0 {
		return nil
	}
	// Asked after the pairs were listed: what is there has a sandbox by then.
	sandboxes, err := u.Sandboxes(ctx)
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	for id := range sandboxes {
		known[netplan.VethPairOf(id).Host] = true
	}
	var left []leftover
	for _, name := range pairs {
		if !known[name] {
			left = append(left, leftover{"link " + name, func() error {
				return host.Delete(netplan.State{netplan.Link{Name: name, Kind: "veth"}})
			}})
		}
	}
	return left
}

// leftRoutes are the routes to addresses that no pod holds, over links that do not
// go with their pods: those of an overlay network.
func (u *Upkeep) leftRoutes(host *linux.Namespace) []leftover {
	routes, err := host.HostRoutes()
	if err != nil {
		u.Log.Warn("cannot list the routes to the node's pods", "err", err)
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
	unleased, err := u.Unleased(addrs)
	if err != nil {
		return nil
	}
	var left []leftover
	for _, r := range routes {
		if !netplan.IsHostVeth(r.Route.Dev) && slices.Contains(unleased, r.Route.Dst.Addr()) {
			left = append(left, leftover{r.Route.String(), func() error { return host.DeleteHostRoute(r) }})
		}
	}
	return left
}
