// Package nodeguard keeps the agent's node ready for underlay pods: the rules,
// forwarding and masquerading that all pods share, the sysctls that want more
// room than the kernel's defaults, and what is left of pods that are gone: their
// veth pairs, and the routes to them over links that stay.
//
// The coordinator plugin makes what is shared at the first ADD; this package
// puts back what somebody flushed, at most Interval later. A pair is removed only
// when the container runtime has not known its sandbox for MinAge, a route when no
// lease of the node has held its address for so long. Run returns when its context
// ends.
package nodeguard

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/readcache"
)

const (
	// Interval is the time between two rounds.
	Interval = time.Minute
	// parentsInterval is the time between two looks at the network attachments,
	// which every node of the cluster takes.
	parentsInterval = 10 * time.Minute
)

// Maintainer is the configuration and the ports of Run.
type Maintainer struct {
	// HostRuleTable returns the table with the routes to the node's pods; ok is
	// false where the coordinator is switched off or its configuration is not known.
	HostRuleTable func(context.Context) (table int, ok bool)
	// Sandboxes returns the node's sandboxes by ID, or an error while that
	// is not known for certain.
	Sandboxes func(context.Context) (map[string]string, error)
	// Unleased returns those of the addresses that pools of this cluster hand out
	// and that no pod of this node holds, or an error while that is not known for
	// certain.
	Unleased func([]netip.Addr) ([]netip.Addr, error)
	// Parents returns the interfaces that the network attachments of this node's
	// pools name, or an error while that is not known.
	Parents func(context.Context) ([]netplan.Parent, error)
	// Warn tells the cluster what the node lacks.
	Warn func(findings string)
	// Open opens the node's namespace.
	Open func() (*linux.Namespace, error)
	// Tune allows to raise sysctls.
	Tune bool
	// IPv6 says whether pods get IPv6 addresses.
	IPv6 bool
	// MinAge is how long something has to look left over before it is removed: a
	// runtime lists a sandbox a while after it has made its network.
	MinAge time.Duration
	Now    func() time.Time
	Log    *slog.Logger

	orphanCandidates map[string]time.Time // what looks left over, since when
	lastReported     string               // the findings that were reported last
	parents          *readcache.Cache[struct{}, []netplan.Parent]
	// missingKinds are kinds of links that the kernel is not known to make.
	missingKinds []string
}

// Run looks after the node until ctx ends.
func (m *Maintainer) Run(ctx context.Context) {
	host, err := m.Open()
	if err != nil {
		m.Log.Error("cannot look after the node's network", "err", err)
		return
	}
	defer host.Close()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		m.preflight(ctx, host)
		m.runOnce(ctx, host)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *Maintainer) runOnce(ctx context.Context, host *linux.Namespace) {
	if table, ok := m.HostRuleTable(ctx); ok {
		m.ensure(host, table)
	}
	m.collectOrphans(ctx, host)
}

// ensure puts back what pods share, for the IP versions that the node's pods have.
func (m *Maintainer) ensure(host *linux.Namespace, table int) {
	families, err := host.PodFamilies(table)
	if err != nil {
		m.Log.Warn("cannot list the routes to the node's pods", "err", err)
		return
	}
	changes, err := host.EnsureNode(table, families)
	if err != nil {
		m.Log.Warn("cannot prepare the node for its pods", "err", err)
	}
	if len(changes) > 0 {
		m.Log.Info("put back what the pods of the node share", "changes", changes.String())
	}
}
