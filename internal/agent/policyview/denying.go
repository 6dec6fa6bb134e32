package policyview

import (
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Denying returns the policies that drop a packet of a pod's interface, e.g. "eth0", in a direction: the one with the rule that
// denies it, or those that isolate the interface without a rule that allows it. It returns none if the policies of this moment let the
// packet pass, or if some of them are unknown.
func (v *View) Denying(name lease.PodKey, dev string, way policy.Direction, packet policy.Packet) []policy.Name {
	v.mu.Lock()
	defer v.unlock()
	p := v.pods[name]
	if p == nil {
		return nil
	}
	i := slices.IndexFunc(p.Interfaces, func(at policy.Interface) bool { return at.Name == dev })
	if i < 0 || v.decided[p.keys[i]] == nil {
		return nil
	}
	d := v.decided[p.keys[i]]
	if d.filter == nil {
		f := v.rules.Select(&p.Pod, &p.Interfaces[i]).Filter(&p.Pod, &received{view: v, groups: map[string]bool{}})
		f.Always = inet.Set{} // that of one pod; a packet from there is not dropped
		d.filter = &f
	}
	switch decision := d.filter.Judge(way, packet); decision.Reason {
	case policy.Denying:
		return []policy.Name{decision.Policy}
	case policy.Isolated:
		return decision.Isolating
	}
	return nil
}
