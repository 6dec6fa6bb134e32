package nodeguard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// followedFor is how long the pods are compared again after a change of the node's
// addresses. An ADD that read the addresses before the change finishes meanwhile.
const followedFor = 2 * Interval

// follow gives running pods routes to the addresses that the node got after their ADD.
// It does nothing while the addresses stay the same.
func (m *Maintainer) follow(host *linux.Namespace) {
	addrs, err := host.NodeAddrs()
	if err != nil {
		m.Log.Warn("cannot list the addresses of the node", "err", err)
		return
	}
	slices.SortFunc(addrs, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	now := m.Now()
	if !slices.Equal(addrs, m.followed.addrs) {
		m.followed.addrs, m.followed.until = addrs, now.Add(followedFor)
	}
	if now.After(m.followed.until) {
		return
	}
	m.followSources(host, netplan.Node{Addrs: addrs})
	err = host.EachPod(m.PodNamespaces, func(path string, pod *linux.Namespace, st netplan.State) error {
		missing := netplan.Diff(nil, netplan.FollowNode(st, netplan.Node{Addrs: addrs}), nil)
		err := pod.ApplyEach(missing)
		if len(missing) > 0 {
			m.Log.Info("routed a pod to new addresses of the node", "namespace", path, "changes", missing.String())
		}
		return err
	}, func(path string, err error) {
		m.Log.Warn("cannot route a pod to the addresses of the node", "namespace", path, "err", err)
		m.followed.until = now.Add(followedFor)
	})
	if err != nil {
		m.Log.Warn("cannot list the network namespaces of the pods", "err", err)
	}
}

// followSources replaces the lost sources in the node's routes to pods.
func (m *Maintainer) followSources(host *linux.Namespace, node netplan.Node) {
	toPods, err := host.HostRoutes()
	if err != nil {
		m.Log.Warn("cannot list the routes to the node's pods", "err", err)
		return
	}
	var routes []netplan.Route
	for _, r := range toPods {
		routes = append(routes, r.Route)
	}
	changes := netplan.FollowSources(routes, node)
	if err := host.ApplyEach(changes); err != nil {
		m.Log.Warn("cannot replace the source of routes to the node's pods", "err", err)
		m.followed.until = m.Now().Add(followedFor)
	}
	if len(changes) > 0 {
		m.Log.Info("replaced the source of routes to the node's pods", "changes", changes.String())
	}
}

// followed are the node's addresses at the last change, and the time until which the
// pods are compared with them.
type followed struct {
	addrs []netip.Prefix
	until time.Time
}
