package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/internal/service"
)

// Packet is the first packet of a connection, with the addresses that the pods see: a service address is translated.
type Packet struct {
	From, To netip.Addr
	Protocol service.Protocol
	// Port is the port of the destination.
	Port uint16
}

// Reason is that of a Decision.
type Reason uint8

const (
	// NoPod lets a packet pass: no pod has the address, so no policy selects it.
	NoPod Reason = iota
	// Always lets the pod's own traffic pass, and that of its node.
	Always
	// Open lets a packet pass: no policy isolates the pod, and no rule denies the packet.
	Open
	// Allowing is a rule that lets the packet pass.
	Allowing
	// Denying is a rule that drops the packet.
	Denying
	// Isolated drops a packet: policies isolate the pod, and none of their rules allows the packet.
	Isolated
)

// Decision is about one end of a packet.
type Decision struct {
	Reason Reason
	// Policy, Rule and Peer name the deciding rule of the reasons Allowing and Denying.
	Policy Name
	Rule   int
	Peer   string
	// Isolating are the policies that isolate the pod, with the reason Isolated.
	Isolating []Name
}

// Allowed reports whether the packet passes.
func (d Decision) Allowed() bool { return d.Reason != Isolated && d.Reason != Denying }

// Explain returns the decision with its cause for users. way is the direction of the decision.
func (d Decision) Explain(way Direction) string {
	switch d.Reason {
	case NoPod:
		return "allowed: no pod of the pod network has the address"
	case Always:
		return "allowed: traffic of a pod with itself and with its own node always passes"
	case Open:
		return fmt.Sprintf("allowed: no policy isolates the pod's %s", way)
	case Allowing:
		return fmt.Sprintf("allowed by %s, %s[%d] (%s)", d.Policy, way, d.Rule, d.Peer)
	case Denying:
		return fmt.Sprintf("denied by %s, %s[%d] (%s)", d.Policy, way, d.Rule, d.Peer)
	}
	texts := make([]string, len(d.Isolating))
	for i, name := range d.Isolating {
		texts[i] = name.String()
	}
	return fmt.Sprintf("denied: no rule of %s allows it", strings.Join(texts, ", "))
}

// Verdict is the decision about a packet at both ends.
type Verdict struct{ Egress, Ingress Decision }

// Allowed reports whether the packet arrives.
func (v Verdict) Allowed() bool { return v.Egress.Allowed() && v.Ingress.Allowed() }

// Verdict judges a packet. If several pods have one address, all must let the packet pass.
func (c *Cluster) Verdict(p Packet) Verdict {
	return Verdict{Egress: c.decide(Egress, p.From, p), Ingress: c.decide(Ingress, p.To, p)}
}

func (c *Cluster) decide(way Direction, own netip.Addr, p Packet) Decision {
	decision := Decision{Reason: NoPod}
	for _, at := range c.resolved.at[own] {
		f := c.DecideInterface(at.pod, at.Interface)
		if decision = f.Judge(way, p); !decision.Allowed() {
			return decision
		}
	}
	return decision
}

// Judge decides about a packet in one direction: the peer is the destination of Egress, and the source of Ingress.
func (f *Filter) Judge(way Direction, p Packet) Decision {
	side, peer := f.Side(way), p.From
	if way == Egress {
		peer = p.To
	}
	switch {
	case side.open():
		return Decision{Reason: Open}
	case f.Always.Contains(peer):
		return Decision{Reason: Always}
	}
	if d, final := first(side.Admin, peer, p); final {
		return d
	}
	if len(side.Isolating) > 0 {
		if d, final := first(side.Allows, peer, p); final {
			return d
		}
		return Decision{Reason: Isolated, Isolating: side.Isolating}
	}
	if d, final := first(side.Baseline, peer, p); final {
		return d
	}
	return Decision{Reason: Open}
}

// first returns the decision of the first match. It is final unless the match passes the packet to the next tier.
func first(matches []Match, peer netip.Addr, p Packet) (d Decision, final bool) {
	for i := range matches {
		m := &matches[i]
		if !m.Peers.Contains(peer) || !m.covers(p.Protocol, p.Port) {
			continue
		}
		d = Decision{Reason: Allowing, Policy: m.Policy, Rule: m.Rule, Peer: m.Peer}
		if m.Action == Deny {
			d.Reason = Denying
		}
		return d, m.Action != Pass
	}
	return d, false
}
