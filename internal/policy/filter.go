package policy

import (
	"cmp"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/service"
)

// Filter is the decision about the packets of one interface of a pod.
type Filter struct {
	Pod Name
	// Interface is empty for the default interface.
	Interface string
	// Always are the pod's own addresses and those of its node.
	Always          inet.Set
	Ingress, Egress Side
}

// Side is one direction of a Filter. The first match in Admin decides. Then, if NetworkPolicies isolate the pod, a match
// in Allows is needed. Otherwise the first match in Baseline decides, and without one, the packet passes.
type Side struct {
	Admin []Match
	// Isolating are the NetworkPolicies that isolate the pod, sorted.
	Isolating []Name
	// Allows are in the order of Isolating, then of the rules and their peers.
	Allows   []Match
	Baseline []Match
}

// Match are the packets that one peer of a rule matches, for ports with the same addresses.
type Match struct {
	Policy Name
	// Rule is the index of the rule in the policy.
	Rule   int
	Action Action
	// Peer describes the peer to users; see Peer.String.
	Peer  string
	Peers inet.Set
	Ports []PortRange
	// Missing are the named ports that no destination pod has.
	Missing []string
}

// Side returns one direction.
func (f *Filter) Side(d Direction) *Side {
	if d == Ingress {
		return &f.Ingress
	}
	return &f.Egress
}

// open reports whether no policy concerns the direction.
func (s *Side) open() bool { return len(s.Isolating)+len(s.Admin)+len(s.Baseline) == 0 }

var bothWays = []Direction{Ingress, Egress}

func newFilter(pod *Pod) Filter {
	return Filter{Pod: pod.Name, Always: inet.Union(inet.OfAddrs(pod.own()...), inet.OfAddrs(pod.NodeAddrs...))}
}

// Decide returns the filter of a pod's default interface: NetworkPolicies and ClusterNetworkPolicies. No policy concerns
// a pod on the network of its node.
func (c *Cluster) Decide(pod *Pod) Filter {
	f := newFilter(pod)
	if pod.HostNetwork {
		return f
	}
	for _, d := range bothWays {
		side := f.Side(d)
		for _, p := range c.tiers {
			if labels, known := c.namespaces[pod.Name.Namespace]; known && p.Namespaces.Matches(labels) && p.Pods.Matches(pod.Labels) {
				c.addTier(side, d, p, pod)
			}
		}
		for _, p := range c.policies[pod.Name.Namespace] {
			if !p.Name.Multi {
				c.addPolicy(side, d, p, pod)
			}
		}
	}
	return f
}

// DecideInterface returns the filter of an interface: MultiNetworkPolicies for its network, or Decide for the default one.
func (c *Cluster) DecideInterface(pod *Pod, at *Interface) Filter {
	if at.Default {
		return c.Decide(pod)
	}
	f := newFilter(pod)
	f.Interface = at.Name
	if at.Network == (Name{}) {
		return f
	}
	for _, d := range bothWays {
		for _, p := range c.policies[pod.Name.Namespace] {
			if p.Name.Multi && slices.Contains(p.Networks, at.Network) {
				c.addPolicy(f.Side(d), d, p, pod)
			}
		}
	}
	return f
}

// addPolicy adds the policy if it selects the pod.
func (c *Cluster) addPolicy(side *Side, d Direction, p *Policy, pod *Pod) {
	section := p.section(d)
	if !section.Isolates || !p.Pods.Matches(pod.Labels) {
		return
	}
	side.Isolating = append(side.Isolating, p.Name)
	for i := range section.Rules {
		side.Allows = append(side.Allows, c.matches(Match{Policy: p.Name, Rule: i}, d, scope{p.Name.Namespace, p.Networks}, &section.Rules[i], pod)...)
	}
}

func (c *Cluster) addTier(side *Side, d Direction, p *ClusterPolicy, pod *Pod) {
	tier := &side.Admin
	if p.Tier == Baseline {
		tier = &side.Baseline
	}
	rules := p.rules(d)
	for i := range rules {
		*tier = append(*tier, c.matches(Match{Policy: p.Name, Rule: i, Action: rules[i].Action}, d, scope{}, &rules[i].Rule, pod)...)
	}
}

// matches returns the matches of a rule, peer by peer. of has the fields that they share.
func (c *Cluster) matches(of Match, d Direction, in scope, rule *Rule, pod *Pod) (all []Match) {
	if rule.AnyPeer {
		of.Peer, of.Peers = "anyone", everyone
		return c.withPorts(of, d, in, rule, pod)
	}
	for i := range rule.Peers {
		of.Peer, of.Peers = rule.Peers[i].String(), c.peers(in, &rule.Peers[i])
		all = append(all, c.withPorts(of, d, in, rule, pod)...)
	}
	return all
}

// withPorts divides the packets of a Match by ports. Named ports of egress may have another number for each peer.
func (c *Cluster) withPorts(of Match, d Direction, in scope, rule *Rule, pod *Pod) []Match {
	if rule.AnyPort {
		of.Ports = []PortRange{anyPorts}
		return []Match{of}
	}
	var numbered []Match
	for _, port := range rule.Ports {
		name := portName{name: port.Name, protocol: port.Protocol}
		switch {
		case port.Protocol == 0:
		case port.Name == "":
			of.Ports = append(of.Ports, PortRange{port.Protocol, port.From, port.To})
		case d == Ingress:
			numbers := pod.numbers(name)
			for _, number := range numbers {
				of.Ports = append(of.Ports, PortRange{port.Protocol, number, number})
			}
			if len(numbers) == 0 {
				of.Missing = append(of.Missing, port.Name)
			}
		default:
			found := c.named(of, in, name)
			numbered = append(numbered, found...)
			if len(found) == 0 {
				of.Missing = append(of.Missing, port.Name)
			}
		}
	}
	of.Ports = merged(of.Ports)
	if len(of.Ports) > 0 || len(numbered) == 0 || len(of.Missing) > 0 {
		return append([]Match{of}, numbered...)
	}
	return numbered
}

// named returns one Match for each number of the named port among the peers.
func (c *Cluster) named(of Match, in scope, name portName) (all []Match) {
	for _, n := range c.numbers(in, name) {
		if both := of.Peers.And(n.addrs); !both.IsEmpty() {
			one := of
			one.Peers, one.Ports, one.Missing = both, []PortRange{{name.protocol, n.port, n.port}}, nil
			all = append(all, one)
		}
	}
	return all
}

// merged sorts the ranges, and joins those that overlap or touch, so that a search finds a port. An author of a policy
// may write thousands.
func merged(ranges []PortRange) (out []PortRange) {
	slices.SortFunc(ranges, PortRange.compare)
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].Protocol == r.Protocol && int(r.From) <= int(out[n-1].To)+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// covers reports whether the match has the packets of the protocol and the port.
func (m *Match) covers(protocol service.Protocol, port uint16) bool {
	if len(m.Ports) > 0 && m.Ports[0] == anyPorts {
		return true
	}
	at, found := slices.BinarySearchFunc(m.Ports, PortRange{protocol, port, port}, func(r, wanted PortRange) int {
		return cmp.Or(cmp.Compare(r.Protocol, wanted.Protocol), cmp.Compare(r.From, wanted.From))
	})
	if !found {
		at-- // the last range that begins before the port
	}
	return at >= 0 && m.Ports[at].Protocol == protocol && port <= m.Ports[at].To
}
