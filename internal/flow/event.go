// Package flow has the flows of a node's pods as values: one connection that opened, ended or was dropped.
package flow

import (
	"context"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// Protocols of IP besides those that a Service may name.
const (
	ICMPv4 service.Protocol = 1
	ICMPv6 service.Protocol = 58
)

// Kind says what happened.
type Kind uint8

// The kinds.
const (
	// Opened: the first packet passed. For an incoming TCP or SCTP connection or echo, that is the pod's first answer.
	Opened Kind = iota
	// Closed: the connection ended, or was silent for the collector's idle time. Its counters are set.
	Closed
	// Refused: the first packet arrived and nothing listened, e.g. the answer to a SYN was a RST.
	Refused
	// Denied: a packet filter dropped a packet. Reason and, if the filter can tell, Policies are set.
	Denied
)

// String returns e.g. "opened".
func (k Kind) String() string { return [...]string{"opened", "closed", "refused", "denied"}[k] }

// Reason says why a packet was dropped.
type Reason uint8

// The reasons.
const (
	// NoReason: the packet was forwarded.
	NoReason Reason = iota
	// ByPolicy: no policy that isolates the pod allows it.
	ByPolicy
	// BySpoofing: the source was not an address of the interface.
	BySpoofing
)

// String returns e.g. "policy", and "" for NoReason.
func (r Reason) String() string { return [...]string{"", "policy", "anti-spoofing"}[r] }

// TCPFlags are those of a TCP header: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 (RFC 9293, section 3.1).
type TCPFlags uint8

// Event is what happened to a connection at one interface of a pod of this node. A connection between two pods of the
// node has events at both.
type Event struct {
	// Time is that of the packet, to a few milliseconds.
	Time time.Time
	Kind Kind
	// Pod and UID are those of the local pod, by its network namespace, not by an address in the packet.
	Pod lease.PodKey
	UID string
	// Interface is that of the pod, e.g. "eth0", "net1" or "veth0".
	Interface string
	// Direction is that of the connection's first packet, as the pod sees it. Egress: the pod opened the connection.
	Direction policy.Direction
	Protocol  service.Protocol
	// Source opened the connection, also if the present packet goes the other way. The addresses are those of the wire at
	// the pod's interface, i.e. the backend of a service. IPv4 is never IPv4-mapped. Ports are 0 for ICMP.
	Source, Destination netip.AddrPort
	// Service is the frontend that the pod connected to, e.g. 10.96.0.1:443, before the translation at the socket; zero if
	// there is none or it is unknown.
	Service netip.AddrPort
	// ICMPType and ICMPCode are those of the first packet.
	ICMPType, ICMPCode uint8
	// Flags are those of the present packet: of the first one for Opened and Denied, of the last one for Closed.
	Flags TCPFlags
	// Reason is that of Denied.
	Reason Reason
	// Policies are those that dropped the packet: the one with the rule that denies it, or those that isolate the pod in this
	// direction without a rule that allows it. It is empty if they are unknown, e.g. changed since. Receivers only read it.
	Policies []policy.Name
	// Ended are the counters of Closed.
	Ended Counters
}

// Counters are what a connection has done until its end.
type Counters struct {
	// Sent is from Source to Destination, Received the other way.
	Sent, Received Traffic
	Duration       time.Duration
	// Retransmits are the TCP segments that the local pod sent again; 0 if its kernel does not tell.
	Retransmits uint32
	// RTT is the smoothed round-trip time of TCP, or else the time between the first packet and its answer; 0 if unknown.
	RTT time.Duration
}

// Traffic is one direction of a connection. Bytes are the payload of TCP, and otherwise whole IP packets.
type Traffic struct{ Packets, Bytes uint64 }

// Source is a collector of one node.
type Source interface {
	// Run calls to with what happened since the last call, until ctx ends. The slice is valid during the call. lost are the
	// events since the last call that were not kept: a full buffer never delays a packet. to must not block: meanwhile, the
	// kernel's buffer fills.
	Run(ctx context.Context, to func(events []Event, lost uint64)) error
}
