package nodeguard

import (
	"context"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/readcache"
)

// preflight raises what it may, and reports what the node lacks then, when that is
// something else than before.
func (u *Upkeep) preflight(ctx context.Context, host *linux.Namespace) {
	if u.missingKinds == nil {
		u.missingKinds = netplan.LinkKinds
	}
	facts, err := host.Facts(u.missingKinds...)
	if err != nil {
		u.Log.Warn("cannot examine all of the node's kernel", "err", err)
	}
	facts.Parents = u.measureParents(ctx, host)
	// What the kernel has it keeps; what it lacks may be a module that comes.
	u.missingKinds = slices.DeleteFunc(slices.Clone(u.missingKinds), func(kind string) bool { return facts.Kinds[kind] })
	if u.Tune {
		u.raise(host, facts)
	}
	var lines []string
	for _, f := range netplan.Lacking(netplan.Preflight(facts, u.IPv6)) {
		lines = append(lines, f.String())
	}
	text := strings.Join(lines, "; ")
	if text == u.shown {
		return
	}
	u.shown = text
	if text == "" {
		u.Log.Info("the node has everything that underlay pods need")
		return
	}
	u.Log.Warn("the node lacks something", "findings", text)
	u.Warn(text)
}

// measureParents returns the interfaces that attachments name, as they are.
func (u *Upkeep) measureParents(ctx context.Context, host *linux.Namespace) []netplan.Parent {
	if u.parents == nil {
		u.parents = &readcache.Cache[struct{}, []netplan.Parent]{TTL: parentsInterval, Now: u.Now}
	}
	parents, err := u.parents.Get(ctx, struct{}{}, u.Parents)
	if err != nil {
		u.Log.Debug("cannot read the network attachments of this node's pools", "err", err)
	}
	var out []netplan.Parent
	for _, p := range parents {
		mtu, err := host.MTU(p.Name)
		if err != nil {
			u.Log.Warn("cannot look at an interface that pods' are made on", "err", err)
			continue
		}
		p.HasMTU = mtu
		out = append(out, p)
	}
	return out
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
