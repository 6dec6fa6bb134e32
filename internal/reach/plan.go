package reach

import (
	"cmp"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Party is a pod of the test, or a node.
type Party struct {
	// Name is that of the pod, e.g. "probe-0-a". A node takes part by a pod in its network.
	Name string `json:"name"`
	Node string `json:"node"`
	// Host is true for a node.
	Host  bool  `json:"host,omitempty"`
	Facts Facts `json:"facts"`
	// Interfaces are those of a pod with addresses, the default one first. A node has one,
	// without a name, with its addresses.
	Interfaces []Interface `json:"interfaces"`
}

// Interface is an interface of a pod with the addresses of its leases.
type Interface struct {
	Name    string   `json:"name,omitempty"`
	Network string   `json:"network,omitempty"` // the NetworkAttachmentDefinition
	Leases  []Leased `json:"leases,omitempty"`
}

// Leased is an address with the pool and the gateway that came with it.
type Leased struct {
	Addr    netip.Addr `json:"addr"`
	Gateway netip.Addr `json:"gateway,omitzero"`
	Pool    string     `json:"pool,omitempty"`
}

// Service is a Service of the test with one backend.
type Service struct {
	Name       string       `json:"name"`
	Node       string       `json:"node"`    // of the backend
	Backend    string       `json:"backend"` // a party
	ClusterIPs []netip.Addr `json:"clusterIPs"`
	Port       uint16       `json:"port"`
	NodePort   uint16       `json:"nodePort"`
}

// Cluster is a cluster with the parties of a test: on each node two pods and the node itself.
type Cluster struct {
	Parties  []Party   `json:"parties"`
	Services []Service `json:"services"`
	// APIServer are the addresses of the Service of the API server.
	APIServer []netip.AddrPort `json:"apiServer"`
	// DNSName is a name that the DNS of the cluster knows, e.g. "kubernetes.default.svc.cluster.local".
	DNSName string `json:"dnsName"`
	// Port is the port of the servers of all parties.
	Port uint16 `json:"port"`
}

// IsService reports whether the test has a Service of the name.
func (c *Cluster) IsService(name string) bool {
	return slices.ContainsFunc(c.Services, func(s Service) bool { return s.Name == name })
}

// The paths. The names are those of docs/reference/datapath.md where that page has the path.
const (
	PathSameNode    = "pod to a pod of the same node"
	PathOtherNode   = "pod to a pod of another node"
	PathOwnHost     = "pod to its node"
	PathOtherHost   = "pod to another node"
	PathHostPod     = "node to its pod"
	PathHostOther   = "node to a pod of another node"
	PathService     = "pod to ClusterIP, backend on its node"
	PathServiceFar  = "pod to ClusterIP, backend on another node"
	PathServiceSelf = "pod to ClusterIP, backend is itself"
	PathHostService = "node to ClusterIP, backend on the node"
	PathHostFar     = "node to ClusterIP, backend on another node"
	PathNodePort    = "pod to NodePort of its node"
	PathNodePortFar = "pod of another node to NodePort"
	PathGateway     = "pod to its gateway"
	PathFull        = "full packets to a pod of another node"
	PathDNS         = "pod to the DNS of the cluster"
	PathAPIServer   = "pod to the API server"
)

// Probe is a question on a path.
type Probe struct {
	Path string `json:"path"`
	// Interface is that of the pod on paths that depend on it.
	Interface string      `json:"interface,omitempty"`
	Family    inet.Family `json:"ipVersion"`
	From      string      `json:"from"` // a party
	// To is a party or a service, or empty.
	To string `json:"to,omitempty"`
	// Server is the party that is to answer, if one is.
	Server   string   `json:"server,omitempty"`
	Question Question `json:"question"`
	Answer   Answer   `json:"answer"`
}

// Judge sets the answer. An answer of another server is a fault.
func (p *Probe) Judge(a Answer) {
	if a.Fault == "" && p.Server != "" && a.Server != p.Server {
		a.Fault, a.Detail = OtherServer, "answer of "+cmp.Or(a.Server, "an unknown program")
	}
	p.Answer = a
}

// site is a node with its parties.
type site struct {
	node    string
	pods    []*Party
	host    *Party
	service *Service
}

// sites returns the nodes in the order of their first party.
func (c *Cluster) sites() []*site {
	var all []*site
	byNode := map[string]*site{}
	of := func(node string) *site {
		if byNode[node] == nil {
			byNode[node] = &site{node: node}
			all = append(all, byNode[node])
		}
		return byNode[node]
	}
	for i := range c.Parties {
		if p := &c.Parties[i]; p.Host {
			of(p.Node).host = p
		} else {
			of(p.Node).pods = append(of(p.Node).pods, p)
		}
	}
	for i := range c.Services {
		of(c.Services[i].Node).service = &c.Services[i]
	}
	return all
}

// planner collects probes.
type planner struct {
	*Cluster
	probes []Probe
}

// Plan returns the probes of all paths. Each node talks to itself and to the next one, so the
// number of probes grows with the number of nodes, not with its square.
func Plan(c *Cluster) []Probe {
	p := planner{Cluster: c}
	sites := c.sites()
	for i, s := range sites {
		p.within(s)
		if next := sites[(i+1)%len(sites)]; next != s {
			p.between(s, next)
		}
	}
	return p.probes
}

// within plans the paths that need one node.
func (p *planner) within(s *site) {
	for _, pod := range s.pods {
		p.gateways(pod)
	}
	if len(s.pods) == 0 {
		return
	}
	first, last := s.pods[0], s.pods[len(s.pods)-1]
	if first != last {
		p.pair(PathSameNode, first, last)
	}
	p.names(first)
	for _, at := range p.APIServer {
		p.add(Probe{Path: PathAPIServer, From: first.Name, Question: Question{Kind: Connect, To: at}})
	}
	if s.host != nil {
		p.pair(PathOwnHost, first, s.host)
		p.pair(PathHostPod, s.host, last)
	}
	if s.service == nil {
		return
	}
	p.service(PathService, first, s.service)
	p.service(PathServiceSelf, last, s.service)
	if s.host != nil {
		p.service(PathHostService, s.host, s.service)
		p.nodePort(PathNodePort, first, s.host, s.service)
	}
}

// between plans the paths from one node to another.
func (p *planner) between(s, next *site) {
	if len(s.pods) == 0 || len(next.pods) == 0 {
		return
	}
	first, last := s.pods[0], next.pods[len(next.pods)-1]
	p.pair(PathOtherNode, first, last)
	p.full(first, last)
	if next.host != nil {
		p.pair(PathOtherHost, first, next.host)
	}
	if s.host != nil {
		p.pair(PathHostOther, s.host, last)
	}
	if next.service == nil {
		return
	}
	p.service(PathServiceFar, first, next.service)
	if s.host != nil {
		p.service(PathHostFar, s.host, next.service)
	}
	if next.host != nil {
		p.nodePort(PathNodePortFar, first, next.host, next.service)
	}
}

func (p *planner) add(probe Probe) {
	probe.Family = inet.FamilyOf(probe.Question.To.Addr())
	p.probes = append(p.probes, probe)
}

// both asks by TCP and by UDP.
func (p *planner) both(probe Probe, to netip.AddrPort) {
	for _, kind := range []Kind{TCP, UDP} {
		probe.Question = Question{Kind: kind, To: to}
		p.add(probe)
	}
}

// pair asks every address of a party, of the families that the asking one has.
func (p *planner) pair(path string, from, to *Party) {
	for _, i := range to.Interfaces {
		name := i.Name
		if to.Host {
			name = ""
		}
		for _, l := range i.Leases {
			if from.has(inet.FamilyOf(l.Addr)) {
				p.both(Probe{Path: path, Interface: name, From: from.Name, To: to.Name, Server: to.Name}, netip.AddrPortFrom(l.Addr, p.Port))
			}
		}
	}
}

// has reports whether the party has an address of the family.
func (t *Party) has(f inet.Family) bool {
	return slices.ContainsFunc(t.Interfaces, func(i Interface) bool {
		return slices.ContainsFunc(i.Leases, func(l Leased) bool { return inet.FamilyOf(l.Addr) == f })
	})
}

func (p *planner) service(path string, from *Party, s *Service) {
	for _, ip := range s.ClusterIPs {
		if from.has(inet.FamilyOf(ip)) {
			p.both(Probe{Path: path, From: from.Name, To: s.Name, Server: s.Backend}, netip.AddrPortFrom(ip, s.Port))
		}
	}
}

// nodePort asks the port at those addresses of a node that have the family of a ClusterIP.
func (p *planner) nodePort(path string, from, host *Party, s *Service) {
	for _, i := range host.Interfaces {
		for _, l := range i.Leases {
			f := inet.FamilyOf(l.Addr)
			served := slices.ContainsFunc(s.ClusterIPs, func(ip netip.Addr) bool { return inet.FamilyOf(ip) == f })
			if s.NodePort != 0 && served && from.has(f) {
				p.both(Probe{Path: path, From: from.Name, To: s.Name, Server: s.Backend}, netip.AddrPortFrom(l.Addr, s.NodePort))
			}
		}
	}
}

func (p *planner) gateways(pod *Party) {
	for _, i := range pod.Interfaces {
		for _, l := range i.Leases {
			if !l.Gateway.IsValid() {
				continue
			}
			to := l.Gateway
			if to.IsLinkLocalUnicast() {
				to = to.WithZone(i.Name)
			}
			p.add(Probe{Path: PathGateway, Interface: i.Name, From: pod.Name, Question: Question{Kind: Gateway, To: netip.AddrPortFrom(to, discard), Dev: i.Name}})
		}
	}
}

// discard is the port of a service that no host has (RFC 863). Its refusal proves that the host is there.
const discard = 9

// full sends packets as large as the interface of the asking pod permits.
func (p *planner) full(from, to *Party) {
	for _, i := range to.Interfaces {
		own, ok := from.Facts.link(i.Name)
		if !ok {
			continue
		}
		for _, l := range i.Leases {
			if from.has(inet.FamilyOf(l.Addr)) {
				p.add(Probe{Path: PathFull, Interface: i.Name, From: from.Name, To: to.Name, Server: to.Name, Question: Question{Kind: Full, To: netip.AddrPortFrom(l.Addr, p.Port), Size: own.MTU}})
			}
		}
	}
}

// names asks the name servers of a pod.
func (p *planner) names(pod *Party) {
	for _, server := range pod.Facts.NameServers {
		if p.DNSName == "" || !pod.has(inet.FamilyOf(server)) {
			continue
		}
		for _, kind := range []Kind{DNSOverUDP, DNSOverTCP} {
			p.add(Probe{Path: PathDNS, From: pod.Name, Question: Question{Kind: kind, To: netip.AddrPortFrom(server, 53), Name: p.DNSName}})
		}
	}
}

// Peers returns the addresses to look up in every party: those of all parties and targets, and one
// beyond the gateways.
func (c *Cluster) Peers(probes []Probe) []netip.Addr {
	peers := map[netip.Addr]bool{Far(inet.IPv4): true, Far(inet.IPv6): true}
	for _, party := range c.Parties {
		for _, i := range party.Interfaces {
			for _, l := range i.Leases {
				peers[l.Addr] = true
			}
		}
	}
	for _, p := range probes {
		peers[p.Question.To.Addr().WithZone("")] = true
	}
	all := make([]netip.Addr, 0, len(peers))
	for addr := range peers {
		all = append(all, addr)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
