// Package nodeguard keeps the agent's node ready for underlay pods. Once per Interval
// it
//
//   - compares the node with the requirements of underlay pods, raises sysctls and
//     warns about unmet requirements (preflight);
//   - restores the shared kernel state of all pods, i.e. rules, forwarding and
//     masquerading, after someone flushed it. The coordinator plugin creates that
//     state at the first ADD;
//   - gives running pods routes to the addresses that the node got after their ADD, also
//     right after such a change;
//   - removes orphans: the veth pairs of deleted pods, and the routes to their
//     addresses over permanent links.
//
// It removes a pair only after the container runtime has not listed its sandbox for
// MinAge, and a route only after no lease of the node has held its address for MinAge.
// Run returns when its context ends.
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
	// Interval is the time between two checks of the node.
	Interval = time.Minute
	// mastersInterval is the time between two reads of the network attachments. It is
	// long because every node of the cluster reads them.
	mastersInterval = 10 * time.Minute
)

// Maintainer maintains the node. Set the exported fields, then call Run.
type Maintainer struct {
	// HostRuleTable returns the number of the table with the routes to the node's
	// pods. ok is false if the coordinator is disabled or its configuration unknown.
	HostRuleTable func(context.Context) (table int, ok bool)
	// Sandboxes returns the pod UIDs of all sandboxes of the node by sandbox ID, or an
	// error if the list may be incomplete.
	Sandboxes func(context.Context) (map[string]string, error)
	// Unleased returns the addresses that belong to a pool of this cluster but to no
	// lease of this node, or an error if it cannot be sure.
	Unleased func([]netip.Addr) ([]netip.Addr, error)
	// Masters returns the master interfaces in the network attachments of this node's
	// pools.
	Masters func(context.Context) ([]netplan.Master, error)
	// AntiSpoof reports whether the cluster's coordinator has the setting antiSpoof.
	AntiSpoof func(context.Context) bool
	// Warn writes an event with the unmet requirements.
	Warn func(findings string)
	// Open opens the node's network namespace.
	Open func() (*linux.Namespace, error)
	// PodNamespaces is the directory in which the container runtime mounts the network
	// namespaces of pods, e.g. "/run/netns".
	PodNamespaces string
	// AddrsChanged has a value after a change of the node's addresses.
	AddrsChanged <-chan struct{}
	// Tune permits raising sysctls.
	Tune bool
	// IPv6 adds the requirements of pods with IPv6 addresses.
	IPv6 bool
	// MinAge is how long something must look orphaned before its removal: a runtime
	// lists a sandbox some time after it has created the sandbox's network.
	MinAge time.Duration
	Now    func() time.Time
	Log    *slog.Logger

	followed         followed
	orphanCandidates map[string]time.Time // by name: since when it looks orphaned
	lastReported     string               // findings
	masters          *readcache.Cache[struct{}, []netplan.Master]
	// missingKinds are the link kinds that the kernel has not supported so far; nil
	// before the first check.
	missingKinds []string
	// limitsBandwidth and guardsSources are true once the kernel has done so in a trial.
	limitsBandwidth, guardsSources bool
}

// Run maintains the node until ctx ends.
func (m *Maintainer) Run(ctx context.Context) {
	host, err := m.Open()
	if err != nil {
		m.Log.Error("cannot open the node's network namespace; the agent does not maintain it", "err", err)
		return
	}
	defer host.Close()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		m.preflight(ctx, host)
		m.runOnce(ctx, host)
		m.wait(ctx, host, tick.C)
	}
}

// wait follows the node's addresses until the next tick or the end of ctx.
func (m *Maintainer) wait(ctx context.Context, host *linux.Namespace, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			return
		case <-m.AddrsChanged:
			m.follow(host)
		}
	}
}

func (m *Maintainer) runOnce(ctx context.Context, host *linux.Namespace) {
	if table, ok := m.HostRuleTable(ctx); ok {
		m.ensure(host, table)
	}
	m.follow(host)
	m.collectOrphans(ctx, host)
}

// ensure restores the shared state for the IP versions of the node's pods.
func (m *Maintainer) ensure(host *linux.Namespace, table int) {
	families, err := host.PodFamilies(table)
	if err != nil {
		m.Log.Warn("cannot list the routes to the node's pods", "err", err)
		return
	}
	changes, err := host.EnsureNode(table, families)
	if err != nil {
		m.Log.Warn("cannot restore the shared network state of the node's pods", "err", err)
	}
	if len(changes) > 0 {
		m.Log.Info("restored the shared network state of the node's pods", "changes", changes.String())
	}
}
