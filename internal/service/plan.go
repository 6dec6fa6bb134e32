package service

import (
	"cmp"
	"net/netip"
	"slices"
)

// Kind says where a frontend comes from. If two services claim one frontend, the lower kind gets it: the API server
// assigns the first two, a cloud the third, and any author of a Service writes the last.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	NodePort
	LoadBalancer
	ExternalIP
)

// String returns the kind for users, e.g. "external IP".
func (k Kind) String() string {
	return [...]string{"cluster IP", "node port", "load balancer", "external IP"}[k]
}

// setKey names a set of backends within its service.
type setKey struct {
	port     string
	protocol Protocol
	is4      bool
	local    bool // traffic policy Local
}

// plannedSet is a set of backends without slots. Both lists are sorted.
type plannedSet struct {
	key      setKey
	backends []netip.AddrPort
	// draining are other backends that keep their UDP flows.
	draining []netip.AddrPort
	tracked  bool // the set has members
}

// plannedFrontend is a frontend without an ID.
type plannedFrontend struct {
	FrontendKey
	kind Kind
	set  setKey
	pass string // why the node translates it; empty for a frontend with a set
}

// Limits of one service. Its author must not fill the maps and the memory of all nodes.
const (
	// maxFrontends is an eighth of the frontends of all services.
	maxFrontends = 8192
	// maxBackends is a quarter of the backends of all services. It bounds the sets times the endpoints.
	maxBackends = 65536
	// maxPorts bounds the sets times the ports of the slices: each set looks for its port in each slice.
	maxPorts = 1 << 20
)

// Reasons to leave a frontend to the node.
const (
	passFrontends    = "the service has more than 8192 frontends (ports times addresses)"
	passBackends     = "the service has more than 65536 backends (ports times endpoints)"
	passSCTP         = "the kernel runs no eBPF program when a socket connects with SCTP"
	passSourceRanges = "loadBalancerSourceRanges limits the clients, and the node checks them"
)

// plan returns the frontends of a service on a node, and the sets that they use.
func plan(s *Service, all []*Slice, node *Node) ([]plannedFrontend, []plannedSet) {
	frontends := frontendsOf(s, node)
	used := map[setKey]bool{}
	for _, f := range frontends {
		if f.pass == "" {
			used[f.set] = true
		}
	}
	endpoints, ports := 0, 0
	for _, slice := range all {
		endpoints += len(slice.Endpoints)
		ports += len(slice.Ports)
	}
	if len(used)*endpoints > maxBackends || len(used)*ports > maxPorts {
		for i := range frontends {
			frontends[i].pass = passBackends
		}
		return frontends, nil
	}
	return frontends, setsOf(s, all, node, used)
}

// frontendsOf returns the frontends of a service on a node, sorted, each key once.
//
//   - A family counts only if the service has a cluster IP of it, as in kube-proxy.
//   - externalTrafficPolicy does not concern clients in the cluster: to them, an external IP or a load balancer has
//     the policy Cluster (API documentation of externalTrafficPolicy). kube-proxy treats the node ports of the
//     client's own node the same way (kubernetes/kubernetes#123622), and so do we.
//   - Node ports of other nodes are no frontends: the other node translates them, with its own view of Local. An agent
//     would have to follow all nodes otherwise.
//   - Of a service with too many frontends, only the cluster IPs stay. They pass, so that no other service gets them.
func frontendsOf(s *Service, node *Node) []plannedFrontend {
	addrs := len(s.ClusterIPs) + len(node.Addrs) + len(s.LoadBalancerIPs) + len(s.ExternalIPs)
	if len(s.Ports)*addrs > maxFrontends {
		only := Service{ClusterIPs: s.ClusterIPs, Ports: s.Ports[:min(len(s.Ports), maxFrontends/2)]}
		return sortedFrontends(only.eachFrontend(&Node{}, passFrontends))
	}
	return sortedFrontends(s.eachFrontend(node, ""))
}

func (s *Service) eachFrontend(node *Node, tooMany string) (all []plannedFrontend) {
	for _, clusterIP := range s.ClusterIPs {
		is4 := clusterIP.Is4()
		restricted := s.restricted(is4)
		for _, port := range s.Ports {
			add := func(kind Kind, local bool, number uint16, pass string, addrs ...netip.Addr) {
				if port.Protocol == SCTP {
					pass = passSCTP
				}
				pass = cmp.Or(tooMany, pass)
				for _, addr := range addrs {
					if addr.Is4() == is4 && number != 0 {
						all = append(all, plannedFrontend{
							FrontendKey{addr, number, port.Protocol}, kind, setKey{port.Name, port.Protocol, is4, local}, pass,
						})
					}
				}
			}
			add(ClusterIP, s.InternalLocal, port.Port, "", clusterIP)
			add(NodePort, false, port.NodePort, "", node.Addrs...)
			add(LoadBalancer, false, port.Port, restricted, s.LoadBalancerIPs...)
			add(ExternalIP, false, port.Port, "", s.ExternalIPs...)
		}
	}
	return all
}

func sortedFrontends(all []plannedFrontend) []plannedFrontend {
	slices.SortFunc(all, func(a, b plannedFrontend) int {
		return cmp.Or(compareKeys(a.FrontendKey, b.FrontendKey), cmp.Compare(a.kind, b.kind))
	})
	return slices.CompactFunc(all, func(a, b plannedFrontend) bool { return a.FrontendKey == b.FrontendKey })
}

// restricted returns a reason to pass if only some clients of the family may use the load balancer.
func (s *Service) restricted(is4 bool) string {
	restricted := false
	for _, p := range s.SourceRanges {
		if p.Addr().Is4() == is4 {
			if p.Bits() == 0 {
				return ""
			}
			restricted = true
		}
	}
	if restricted {
		return passSourceRanges
	}
	return ""
}

// setsOf returns the used sets in the order of the service's ports, and removes their keys.
func setsOf(s *Service, all []*Slice, node *Node, used map[setKey]bool) []plannedSet {
	var sets []plannedSet
	for _, port := range s.Ports {
		for _, is4 := range []bool{true, false} {
			var found []candidate
			for _, local := range []bool{false, true} {
				key := setKey{port.Name, port.Protocol, is4, local}
				if !used[key] {
					continue
				}
				delete(used, key)
				if found == nil {
					found = candidates(all, port, is4)
				}
				sets = append(sets, planSet(key, found, node, s.Affinity > 0))
			}
		}
	}
	return sets
}

// planSet chooses the backends among the candidates. UDP flows stay at a serving backend that gets no new ones, as
// kube-proxy keeps their connection tracking entries.
func planSet(key setKey, found []candidate, node *Node, affinity bool) plannedSet {
	set := plannedSet{key: key, tracked: affinity || key.protocol == UDP}
	verdicts, _ := choose(found, node, key.local)
	for i, c := range found {
		switch {
		case verdicts[i] == Chosen:
			set.backends = append(set.backends, c.at)
		case key.protocol == UDP && (c.Serving || c.Ready):
			set.draining = append(set.draining, c.at)
		}
	}
	return set
}
