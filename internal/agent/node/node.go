// Package node keeps the agent's node ready for underlay pods: the rules,
// forwarding and masquerading that all pods share, the sysctls that want more
// room than the kernel's defaults, and the veth pairs of pods that are gone.
//
// The coordinator plugin makes what is shared at the first ADD; this package
// puts back what somebody flushed, at most Interval later. A pair is removed
// only when the container runtime did not know its sandbox in two rounds in a
// row. Run returns when its context ends.
package node

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// Interval is the time between two rounds.
const Interval = time.Minute

// kinds are the kinds of links that attachments are made of.
var kinds = []string{"ipvlan", "macvlan", "vlan", "bond"}

// Upkeep is the configuration and the ports of Run.
type Upkeep struct {
	// HostRuleTable returns the table with the routes to the node's pods; ok is
	// false where the coordinator is switched off or its configuration is not known.
	HostRuleTable func(context.Context) (table int, ok bool)
	// Sandboxes returns the IDs of the node's sandboxes, or an error while that
	// is not known for certain.
	Sandboxes func(context.Context) (map[string]bool, error)
	// Warn tells the cluster what the node lacks.
	Warn func(reason, message string)
	// Open opens the node's namespace.
	Open func() (*linux.Namespace, error)
	// Tune allows to raise sysctls.
	Tune bool
	// IPv6 says whether pods get IPv6 addresses.
	IPv6 bool
	Log  *slog.Logger

	suspects []string // pairs without a sandbox in the last round
}

// Run looks after the node until ctx ends.
func (u *Upkeep) Run(ctx context.Context) {
	host, err := u.Open()
	if err != nil {
		u.Log.Error("cannot look after the node's network", "err", err)
		return
	}
	defer host.Close()
	u.preflight(host)
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		u.round(ctx, host)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// preflight raises what it may, and reports what the node lacks then.
func (u *Upkeep) preflight(host *linux.Namespace) {
	facts, err := host.Facts(kinds...)
	if err != nil {
		u.Log.Warn("cannot examine the node's kernel", "err", err)
		return
	}
	if u.Tune {
		u.raise(host, facts)
	}
	findings := netplan.Preflight(facts, u.IPv6)
	if len(findings) == 0 {
		return
	}
	var lines []string
	for _, f := range findings {
		lines = append(lines, f.String())
		u.Log.Warn("the node lacks something", "what", f.What, "is", f.Is, "want", f.Want, "why", f.Why)
	}
	u.Warn("NodeNotPrepared", strings.Join(lines, "; "))
}

// raise sets sysctls one by one, so that one that cannot be set stops no other,
// and notes those that it set in the facts.
func (u *Upkeep) raise(host *linux.Namespace, facts netplan.NodeFacts) {
	for _, it := range netplan.Raise(facts.Sysctls) {
		s := it.(netplan.Sysctl)
		if err := host.Apply(netplan.Changes{{New: s}}, nil); err != nil {
			u.Log.Warn("cannot raise a sysctl", "err", err)
			continue
		}
		u.Log.Info("raised a sysctl", "sysctl", s.Path, "from", facts.Sysctls[s.Path], "to", s.Value)
		facts.Sysctls[s.Path] = s.Value
	}
}

func (u *Upkeep) round(ctx context.Context, host *linux.Namespace) {
	pairs, err := host.Pairs()
	if err != nil {
		u.Log.Warn("cannot list the pods' links", "err", err)
		return
	}
	if table, ok := u.HostRuleTable(ctx); ok {
		u.ensure(host, table)
	}
	u.collect(ctx, host, pairs)
}

// ensure puts back what pods share, on a node that has such pods.
func (u *Upkeep) ensure(host *linux.Namespace, table int) {
	used, err := host.HasPodRoutes(table)
	if err != nil || !used {
		if err != nil {
			u.Log.Warn("cannot list the routes to the node's pods", "err", err)
		}
		return
	}
	changes, err := host.EnsureNode(table)
	switch {
	case err != nil:
		u.Log.Warn("cannot prepare the node for its pods", "err", err)
	case len(changes) > 0:
		u.Log.Info("put back what the pods of the node share", "changes", changes.String())
	}
}

// collect removes the pairs that had no sandbox in this round and the last.
func (u *Upkeep) collect(ctx context.Context, host *linux.Namespace, pairs []string) {
	if len(pairs) == 0 {
		u.suspects = nil
		return
	}
	sandboxes, err := u.Sandboxes(ctx)
	if err != nil {
		u.suspects = nil // nothing is known, so nothing is suspect
		return
	}
	known := map[string]bool{}
	for id := range sandboxes {
		known[netplan.VethPairOf(id).Host] = true
	}
	var suspects []string
	for _, name := range pairs {
		switch {
		case known[name]:
		case !slices.Contains(u.suspects, name):
			suspects = append(suspects, name)
		default:
			if err := host.Delete(netplan.State{netplan.Link{Name: name, Kind: "veth"}}); err != nil {
				u.Log.Warn("cannot remove the link of a pod that is gone", "link", name, "err", err)
				suspects = append(suspects, name)
				continue
			}
			u.Log.Info("removed the link of a pod that is gone", "link", name)
		}
	}
	u.suspects = suspects
}
