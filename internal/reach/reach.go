// Package reach plans the connectivity test of a cluster, and names the cause of each failed path.
//
// A party is a network namespace that takes part: a pod of the test, or a node. It asks other
// parties and services, and tells the state of its network: links, neighbors, routes. Plan
// returns the questions, and Diagnose the causes of failed answers:
//
//	probes := reach.Plan(&cluster)
//	… // each party asks its questions and tells its state
//	findings := (&reach.World{Cluster: cluster, Probes: probes}).Diagnose()
//
// Pure: no I/O, no clock.
package reach

import (
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Kind is a kind of question.
type Kind string

const (
	// TCP connects, and reads the name of the server.
	TCP Kind = "tcp"
	// UDP sends a datagram, and reads the name of the server.
	UDP Kind = "udp"
	// Connect connects by TCP and reads nothing.
	Connect Kind = "connect"
	// Full sends a UDP packet of Size bytes that may not be fragmented, and waits for one as large.
	Full Kind = "full"
	// DNSOverUDP and DNSOverTCP ask for the addresses of Name.
	DNSOverUDP Kind = "dns/udp"
	DNSOverTCP Kind = "dns/tcp"
	// Gateway resolves a next hop by ARP or NDP. There must be a default route, too.
	Gateway Kind = "gateway"
)

// Question is one question of a party.
type Question struct {
	Kind Kind           `json:"kind"`
	To   netip.AddrPort `json:"to"`
	// Dev is the interface to the next hop of a question of kind Gateway.
	Dev string `json:"dev,omitempty"`
	// Size is the length of the IP packet of a question of kind Full, in bytes.
	Size int    `json:"size,omitempty"`
	Name string `json:"name,omitempty"` // for DNS
}

// Fault is the failure of a question.
type Fault string

const (
	// Silent: nothing came back in time.
	Silent Fault = "no answer"
	// Refused: the target refused the connection.
	Refused Fault = "refused"
	// NoRoute: the asking kernel has no route.
	NoRoute Fault = "no route"
	// NoNeighbor: the next hop does not answer ARP or NDP, or a router says that the host is unreachable.
	NoNeighbor Fault = "host unreachable"
	// Prohibited: a packet filter of the asking host refused the packet.
	Prohibited Fault = "prohibited"
	// TooBig: the packet is larger than the MTU of the way.
	TooBig Fault = "packet too big"
	// OtherServer: another server than the expected one answered.
	OtherServer Fault = "another server answered"
	// Failed is any other failure; Detail has the text.
	Failed Fault = "failed"
)

// Answer is the result of a question. Without a Fault, the path works.
type Answer struct {
	Fault  Fault  `json:"fault,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Server is the name of the party that answered.
	Server string `json:"server,omitempty"`
	// From is the address of the asking party as the server saw it.
	From netip.Addr `json:"from,omitzero"`
	// Largest is the length of the largest packet that passed, if that of the question did not.
	Largest int `json:"largest,omitempty"`
}

// Facts are the state of a network namespace.
type Facts struct {
	Links     []Link     `json:"links"`
	Neighbors []Neighbor `json:"neighbors"`
	// Ways are the kernel's routes to the peers of the request.
	Ways []Way `json:"ways"`
	// Sysctls maps paths below /proc/sys to values, e.g. "net/ipv4/ip_forward" to "1".
	Sysctls     map[string]string `json:"sysctls"`
	NameServers []netip.Addr      `json:"nameServers"`
}

// Link is a network interface.
type Link struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	// Index is the number of the interface. Parent is that of its master interface, in
	// the network namespace of the node.
	Index  int `json:"index"`
	Parent int `json:"parent,omitempty"`
	VLAN   int `json:"vlan,omitempty"`
	MTU    int `json:"mtu"`
	// Up is false if the interface is down, or its carrier is off.
	Up    bool           `json:"up"`
	MAC   string         `json:"mac,omitempty"`
	Addrs []netip.Prefix `json:"addrs,omitempty"`
}

// Neighbor is an entry of the neighbor table.
type Neighbor struct {
	Addr netip.Addr `json:"addr"`
	Dev  string     `json:"dev"`
	// MAC is empty if no host answered.
	MAC string `json:"mac,omitempty"`
}

// Way is the kernel's answer to "ip route get". A way without Dev does not exist.
type Way struct {
	To   netip.Addr `json:"to"`
	Dev  string     `json:"dev,omitempty"`
	Via  netip.Addr `json:"via,omitzero"`
	From netip.Addr `json:"from,omitzero"`
}

// Request asks a party to probe. It is the standard input of "spiderpoolctl connectivity probe".
type Request struct {
	Questions []Question `json:"questions,omitempty"`
	// Peers are the destinations of the wanted ways.
	Peers []netip.Addr `json:"peers,omitempty"`
}

// Reply has the answers in the order of the questions, and the state after the last of them.
type Reply struct {
	Answers []Answer `json:"answers,omitempty"`
	Facts   Facts    `json:"facts"`
}

// Far returns an address beyond every gateway, from the networks for documentation
// (RFC 5737, RFC 9637). Nothing is sent to it.
func Far(f inet.Family) netip.Addr {
	if f == inet.IPv6 {
		return netip.MustParseAddr("3fff::1")
	}
	return netip.MustParseAddr("192.0.2.1")
}

// link returns the link with a name.
func (f *Facts) link(name string) (Link, bool) {
	return f.find(func(l Link) bool { return l.Name == name })
}

// holder returns the link with an address.
func (f *Facts) holder(addr netip.Addr) (Link, bool) {
	return f.find(func(l Link) bool {
		return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr })
	})
}

func (f *Facts) find(is func(Link) bool) (Link, bool) {
	if i := slices.IndexFunc(f.Links, is); i >= 0 {
		return f.Links[i], true
	}
	return Link{}, false
}

// way returns the way to an address. The way does not exist if ok is true and Dev is empty.
func (f *Facts) way(to netip.Addr) (w Way, ok bool) {
	if i := slices.IndexFunc(f.Ways, func(w Way) bool { return w.To == to }); i >= 0 {
		return f.Ways[i], true
	}
	return Way{}, false
}

// neighbor returns the entry of an address. Without an entry, ok is false.
func (f *Facts) neighbor(addr netip.Addr, dev string) (n Neighbor, ok bool) {
	if i := slices.IndexFunc(f.Neighbors, func(n Neighbor) bool { return n.Addr == addr && n.Dev == dev }); i >= 0 {
		return f.Neighbors[i], true
	}
	return Neighbor{}, false
}
