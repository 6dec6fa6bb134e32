package nodeguard

import (
	"context"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/readcache"
)

// preflight raises sysctls if it may, and then reports the unmet requirements if they
// have changed since the last report.
func (m *Maintainer) preflight(ctx context.Context, host *linux.Namespace) {
	if m.missingKinds == nil {
		m.missingKinds = netplan.LinkKinds
	}
	facts, err := host.Facts(m.missingKinds...)
	if err != nil {
		m.Log.Warn("cannot examine the node's kernel completely", "err", err)
	}
	facts.Masters = m.measureMasters(ctx, host)
	facts.NoBandwidth = tryOnce(&m.limitsBandwidth, linux.TryBandwidth)
	if m.AntiSpoof(ctx) {
		facts.NoAntiSpoof = tryOnce(&m.guardsSources, linux.TryGuard)
	}
	// A supported kind stays supported; a missing one may be a module loaded later.
	m.missingKinds = slices.DeleteFunc(slices.Clone(m.missingKinds), func(kind string) bool { return facts.Kinds[kind] })
	if m.Tune {
		m.raiseSysctls(host, facts)
	}
	var lines []string
	for _, f := range netplan.Failed(netplan.Preflight(facts, m.IPv6)) {
		lines = append(lines, f.String())
	}
	text := strings.Join(lines, "; ")
	if text == m.lastReported {
		return
	}
	m.lastReported = text
	if text == "" {
		m.Log.Info("the node meets all requirements of underlay pods")
		return
	}
	m.Log.Warn("node preflight failed", "findings", text)
	m.Warn(text)
}

// tryOnce returns the reason why try fails, or "". After a success, it does not try again.
func tryOnce(succeeded *bool, try func() error) string {
	if *succeeded {
		return ""
	}
	if err := try(); err != nil {
		return err.Error()
	}
	*succeeded = true
	return ""
}

// measureMasters returns the master interfaces in attachments, with their present MTU.
func (m *Maintainer) measureMasters(ctx context.Context, host *linux.Namespace) []netplan.Master {
	if m.masters == nil {
		m.masters = &readcache.Cache[struct{}, []netplan.Master]{TTL: mastersInterval, Now: m.Now}
	}
	parents, err := m.masters.Get(ctx, struct{}{}, m.Masters)
	if err != nil {
		m.Log.Debug("cannot read the network attachments of this node's pools", "err", err)
	}
	var out []netplan.Master
	for _, p := range parents {
		mtu, err := host.MTU(p.Name)
		if err != nil {
			m.Log.Warn("cannot read the MTU of a master interface", "err", err)
			continue
		}
		p.HasMTU = mtu
		out = append(out, p)
	}
	return out
}

// raiseSysctls sets sysctls one by one, so that a failure does not stop the others,
// and updates the facts.
func (m *Maintainer) raiseSysctls(host *linux.Namespace, facts netplan.NodeFacts) {
	for _, it := range netplan.RaiseSysctls(facts.Sysctls) {
		s := it.(netplan.Sysctl)
		if err := host.Apply(netplan.Changes{{New: s}}, nil); err != nil {
			m.Log.Warn("cannot raise a sysctl", "err", err)
			continue
		}
		m.Log.Info("raised a sysctl", "sysctl", s.Path, "from", facts.Sysctls[s.Path], "to", s.Value)
		facts.Sysctls[s.Path] = s.Value
	}
}
