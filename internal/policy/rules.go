package policy

import (
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Rules are the policies of a cluster, and the namespaces that ClusterPolicies select. It does not know the pods.
type Rules struct {
	namespaces map[string]map[string]string
	policies   map[string][]*Policy // by namespace, sorted by name
	tiers      []*ClusterPolicy     // in the order of evaluation
}

// NewRules returns Rules without policies.
func NewRules() *Rules {
	return &Rules{namespaces: map[string]map[string]string{}, policies: map[string][]*Policy{}}
}

// SetNamespace adds or replaces a namespace.
func (r *Rules) SetNamespace(n Namespace) {
	labels := n.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	r.namespaces[n.Name] = labels
}

func (r *Rules) find(name Name) (at int, found bool) {
	return slices.BinarySearchFunc(r.policies[name.Namespace], name, func(p *Policy, name Name) int { return p.Name.Compare(name) })
}

// SetPolicy adds or replaces a policy.
func (r *Rules) SetPolicy(p *Policy) {
	at, found := r.find(p.Name)
	if found {
		r.policies[p.Name.Namespace][at] = p
		return
	}
	r.policies[p.Name.Namespace] = slices.Insert(r.policies[p.Name.Namespace], at, p)
}

// SetClusterPolicy adds or replaces a ClusterPolicy.
func (r *Rules) SetClusterPolicy(p *ClusterPolicy) {
	r.DeleteClusterPolicy(p.Name)
	at, _ := slices.BinarySearchFunc(r.tiers, p, (*ClusterPolicy).compare)
	r.tiers = slices.Insert(r.tiers, at, p)
}

// DeleteClusterPolicy removes a ClusterPolicy if it exists.
func (r *Rules) DeleteClusterPolicy(name Name) {
	r.tiers = slices.DeleteFunc(r.tiers, func(p *ClusterPolicy) bool { return p.Name == name })
}

// Selection are the policies that select a pod, for one of its interfaces.
type Selection struct {
	policies []*Policy
	tiers    []*ClusterPolicy // in the order of evaluation
}

// Select returns the policies of an interface of the pod: NetworkPolicies and ClusterNetworkPolicies for the default one,
// MultiNetworkPolicies for the others. No policy selects a pod on the network of its node.
func (r *Rules) Select(pod *Pod, at *Interface) (s Selection) {
	labels, known := r.namespaces[pod.Name.Namespace]
	for _, p := range r.tiers {
		if at.Default && known && !pod.HostNetwork && p.Namespaces.Matches(labels) && p.Pods.Matches(pod.Labels) {
			s.tiers = append(s.tiers, p)
		}
	}
	for _, p := range r.policies[pod.Name.Namespace] {
		if p.Selects(pod, at) {
			s.policies = append(s.policies, p)
		}
	}
	return s
}

// Filter returns the filter of the pod. from has the addresses of the peers.
func (s Selection) Filter(pod *Pod, from Resolver) Filter {
	f := Filter{Pod: pod.Name, Always: inet.Union(inet.OfAddrs(pod.own()...), inet.OfAddrs(pod.NodeAddrs...))}
	for _, d := range bothWays {
		side, e := f.Side(d), evaluation{from, pod, d}
		for _, p := range s.tiers {
			side.addTier(e, p)
		}
		for _, p := range s.policies {
			side.addPolicy(e, p)
		}
	}
	return f
}

func (s *Side) addPolicy(e evaluation, p *Policy) {
	section := p.section(e.way)
	if !section.Isolates {
		return
	}
	s.Isolating = append(s.Isolating, p.Name)
	for i := range section.Rules {
		s.Allows = append(s.Allows, e.matches(Match{Policy: p.Name, Rule: i}, scope{p.Name.Namespace, p.Networks}, &section.Rules[i])...)
	}
}

func (s *Side) addTier(e evaluation, p *ClusterPolicy) {
	tier := &s.Admin
	if p.Tier == Baseline {
		tier = &s.Baseline
	}
	rules := p.rules(e.way)
	for i := range rules {
		*tier = append(*tier, e.matches(Match{Policy: p.Name, Rule: i, Action: rules[i].Action}, scope{}, &rules[i].Rule)...)
	}
}
