package policy

import (
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Filter is the decision about the packets of one pod.
type Filter struct {
	Pod Name
	// Always are the pod's own addresses and those of its node.
	Always          inet.Set
	Ingress, Egress Side
}

// Side is one direction of a Filter.
type Side struct {
	// Isolating are the policies that isolate the pod, sorted. Without one, every packet passes.
	Isolating []Name
	// Allows are in the order of Isolating, then of the rules and their peers.
	Allows []Allow
}

// Allow are the packets that one peer of a rule allows, for ports with the same addresses.
type Allow struct {
	Policy Name
	// Rule is the index of the rule in the policy.
	Rule int
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

// Decide returns the filter of a pod. Nothing isolates a pod on the network of its node.
func (c *Cluster) Decide(pod *Pod) Filter {
	f := Filter{Pod: pod.Name, Always: inet.Union(inet.OfAddrs(pod.Addrs...), inet.OfAddrs(pod.NodeAddrs...))}
	if pod.HostNetwork {
		return f
	}
	for _, p := range c.policies[pod.Name.Namespace] {
		if !p.Pods.Matches(pod.Labels) {
			continue
		}
		for _, d := range []Direction{Ingress, Egress} {
			section, side := p.section(d), f.Side(d)
			if !section.Isolates {
				continue
			}
			side.Isolating = append(side.Isolating, p.Name)
			for i := range section.Rules {
				side.Allows = append(side.Allows, c.allows(p.Name, d, i, &section.Rules[i], pod)...)
			}
		}
	}
	return f
}

// allows returns what a rule allows, peer by peer.
func (c *Cluster) allows(policy Name, d Direction, index int, rule *Rule, pod *Pod) (allows []Allow) {
	if rule.AnyPeer {
		anyone := Allow{Policy: policy, Rule: index, Peer: "anyone", Peers: everyone}
		return c.withPorts(anyone, d, rule, pod)
	}
	for i := range rule.Peers {
		peer := &rule.Peers[i]
		allow := Allow{Policy: policy, Rule: index, Peer: peer.String(), Peers: c.peers(policy.Namespace, peer)}
		allows = append(allows, c.withPorts(allow, d, rule, pod)...)
	}
	return allows
}

// withPorts divides the packets of an Allow by ports. Named ports of egress may have another number for each peer.
func (c *Cluster) withPorts(allow Allow, d Direction, rule *Rule, pod *Pod) []Allow {
	if rule.AnyPort {
		allow.Ports = []PortRange{anyPorts}
		return []Allow{allow}
	}
	var others []Allow
	for _, port := range rule.Ports {
		name := portName{port.Name, port.Protocol}
		switch {
		case port.Protocol == 0:
		case port.Name == "":
			allow.Ports = append(allow.Ports, PortRange{port.Protocol, port.From, port.To})
		case d == Ingress:
			numbers := pod.numbers(name)
			for _, number := range numbers {
				allow.Ports = append(allow.Ports, PortRange{port.Protocol, number, number})
			}
			if len(numbers) == 0 {
				allow.Missing = append(allow.Missing, port.Name)
			}
		default:
			found := c.named(allow, name)
			others = append(others, found...)
			if len(found) == 0 {
				allow.Missing = append(allow.Missing, port.Name)
			}
		}
	}
	if len(allow.Ports) > 0 || len(others) == 0 || len(allow.Missing) > 0 {
		return append([]Allow{allow}, others...)
	}
	return others
}

// named returns one Allow for each number of the named port among the peers.
func (c *Cluster) named(allow Allow, name portName) (others []Allow) {
	for _, n := range c.numbers(name) {
		if both := allow.Peers.And(n.addrs); !both.IsEmpty() {
			other := allow
			other.Peers, other.Ports, other.Missing = both, []PortRange{{name.protocol, n.port, n.port}}, nil
			others = append(others, other)
		}
	}
	return others
}

// allowsAny reports whether the Allow has all packets of its peers.
func (a *Allow) allowsAny() bool { return slices.Contains(a.Ports, anyPorts) }
