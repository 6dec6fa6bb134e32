package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Policy returns a policy, nil if there is none.
func (r *Rules) Policy(name Name) *Policy {
	if at, found := r.find(name); found {
		return r.policies[name.Namespace][at]
	}
	return nil
}

// DeletePolicy removes a policy if it exists.
func (r *Rules) DeletePolicy(name Name) {
	at, found := r.find(name)
	if !found {
		return
	}
	r.policies[name.Namespace] = slices.Delete(r.policies[name.Namespace], at, at+1)
	if len(r.policies[name.Namespace]) == 0 {
		delete(r.policies, name.Namespace)
	}
}

// HasClusterPolicies reports whether the labels of namespaces matter.
func (r *Rules) HasClusterPolicies() bool { return len(r.tiers) > 0 }

// NeedsPorts reports whether the filter depends on the named ports of the pod.
func (s Selection) NeedsPorts() bool {
	named := func(p Port) bool { return p.Name != "" }
	return slices.ContainsFunc(s.policies, func(p *Policy) bool {
		return p.Ingress.Isolates && slices.ContainsFunc(p.Ingress.Rules, func(r Rule) bool { return slices.ContainsFunc(r.Ports, named) })
	}) || slices.ContainsFunc(s.tiers, func(p *ClusterPolicy) bool {
		return slices.ContainsFunc(p.Ingress, func(r TierRule) bool { return slices.ContainsFunc(r.Ports, named) })
	})
}

// Key returns a text that only pods with equal Sets share, as long as the policies and their peers do not change.
func (s Selection) Key(pod *Pod) string {
	var key strings.Builder
	for _, p := range s.tiers {
		fmt.Fprintf(&key, "%p ", p)
	}
	for _, p := range s.policies {
		fmt.Fprintf(&key, "%p ", p)
	}
	if s.NeedsPorts() {
		fmt.Fprintf(&key, "%v", pod.Ports)
	}
	return key.String()
}
