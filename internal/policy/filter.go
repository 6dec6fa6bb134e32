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

// evaluation turns rules into matches, for one direction of a pod.
type evaluation struct {
	from Resolver
	pod  *Pod
	way  Direction
}

// scope is the part of a policy that its peers depend on.
type scope struct {
	namespace string
	networks  []Name // those of a MultiNetworkPolicy, nil for the default interfaces
}

// group returns the pods of a peer, false for a block and for an invalid peer.
func (s scope) group(peer *Peer) (g Group, ok bool) {
	if peer.Block != nil || peer.Namespaces == nil && peer.Pods == nil {
		return Group{}, false
	}
	g.Networks = s.networks
	if peer.Pods != nil {
		g.Pods = *peer.Pods
	}
	if peer.Namespaces == nil {
		g.Namespace = s.namespace
	} else {
		g.Namespaces = *peer.Namespaces
	}
	return g, true
}

// peers returns the addresses of a peer, and the pods among them.
func (e evaluation) peers(in scope, peer *Peer) (inet.Set, Group) {
	if g, ok := in.group(peer); ok {
		return e.from.Resolve(g).All, g
	}
	if peer.Block == nil {
		return inet.Set{}, Group{Networks: in.networks}
	}
	set := inet.OfPrefix(peer.Block.Prefix)
	for _, except := range peer.Block.Except {
		set = set.Minus(inet.OfPrefix(except))
	}
	return set, Group{Networks: in.networks}
}

// matches returns the matches of a rule, peer by peer. of has the fields that they share.
func (e evaluation) matches(of Match, in scope, rule *Rule) (all []Match) {
	if rule.AnyPeer {
		of.Peer, of.Peers = "anyone", everyone
		return e.withPorts(of, Group{Networks: in.networks}, rule)
	}
	for i := range rule.Peers {
		of.Peer = rule.Peers[i].String()
		var pods Group
		of.Peers, pods = e.peers(in, &rule.Peers[i])
		all = append(all, e.withPorts(of, pods, rule)...)
	}
	return all
}

// withPorts divides the packets of a Match by ports. Named ports of egress may have another number for each of the pods.
func (e evaluation) withPorts(of Match, pods Group, rule *Rule) []Match {
	if rule.AnyPort {
		of.Ports = []PortRange{anyPorts}
		return []Match{of}
	}
	var numbered []Match
	for _, port := range rule.Ports {
		switch name := (portName{port.Name, port.Protocol}); {
		case port.Protocol == 0:
		case port.Name == "":
			of.Ports = append(of.Ports, PortRange{port.Protocol, port.From, port.To})
		case e.way == Ingress:
			numbers := e.pod.numbers(name)
			for _, number := range numbers {
				of.Ports = append(of.Ports, PortRange{port.Protocol, number, number})
			}
			if len(numbers) == 0 {
				of.Missing = append(of.Missing, port.Name)
			}
		default:
			found := e.named(of, pods, name)
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

// named returns one Match for each number of the named port among the pods.
func (e evaluation) named(of Match, pods Group, name portName) (all []Match) {
	pods.Port = name.name
	for _, n := range e.from.Resolve(pods).Numbered {
		if both := of.Peers.And(n.Addrs); n.Protocol == name.protocol && !both.IsEmpty() {
			one := of
			one.Peers, one.Ports, one.Missing = both, []PortRange{{name.protocol, n.Port, n.Port}}, nil
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
