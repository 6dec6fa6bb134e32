package flow

import (
	"strings"

	"spiderpool.dev/spiderpool/internal/policy"
)

// LogGroup is the group of nflog (nft(8), "log group") to which the packet filters in a pod's network namespace copy
// packets that they drop.
const LogGroup = 1513

// LogRate is the number of copies a second of one chain, after a burst of LogBurst.
const LogRate, LogBurst = 50, 100

// Logged says what a copied packet met. Its text is the prefix of the log.
type Logged struct {
	Reason Reason
	// Direction is that of the packet, as the pod sees it.
	Direction policy.Direction
	// Interface is that of the pod.
	Interface string
	// Link is the node's end of the pod's veth pair for a packet that the node dropped, and otherwise empty.
	Link string
}

const logPrefix = "spiderpool "

// String returns e.g. "spiderpool policy ingress eth0", or "spiderpool policy egress eth0 veth1a2b3c4d" on a node.
func (l Logged) String() string {
	text := logPrefix + l.Reason.String() + " " + l.Direction.String() + " " + l.Interface
	if l.Link != "" {
		text += " " + l.Link
	}
	return text
}

// ParseLogged is the inverse of Logged.String. ok is false for another text.
func ParseLogged(text string) (l Logged, ok bool) {
	rest, ok := strings.CutPrefix(text, logPrefix)
	parts := strings.Split(rest, " ")
	if !ok || len(parts) < 3 || len(parts) > 4 {
		return Logged{}, false
	}
	switch parts[0] {
	case ByPolicy.String():
		l.Reason = ByPolicy
	case BySpoofing.String():
		l.Reason = BySpoofing
	default:
		return Logged{}, false
	}
	switch parts[1] {
	case policy.Ingress.String():
	case policy.Egress.String():
		l.Direction = policy.Egress
	default:
		return Logged{}, false
	}
	l.Interface = parts[2]
	if len(parts) == 4 {
		l.Link = parts[3]
	}
	return l, l.String() == text
}
