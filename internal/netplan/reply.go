package netplan

import (
	"fmt"

	"spiderpool.dev/spiderpool/internal/inet"
)

// A client may reach a pod through its node, e.g. by a NodePort. The pod's packets to
// that client must return through the node, because only the node can translate them
// back. They carry ReplyMark in the pod, and a rule leads them through PodVeth.
const (
	// replyMark is one bit, so that it keeps marks of others, such as a service mesh.
	replyMark = 0x40000000
	// replyTable has default routes through PodVeth only.
	replyTable = 99
	// replyRulePriority precedes podRulePriority: the mark matters more than the source.
	replyRulePriority = 1500
)

// ReplyGroup is the group (IFLA_GROUP) of the node's ends of the pairs to pods with a
// ReplyMark. The node keeps the client's address on the way to such a pod.
const ReplyGroup = 83

// ReplyMark is the marking of a namespace's replies to all that arrives on a link.
type ReplyMark struct {
	Family inet.Family
	Dev    string
	Mark   uint32 // one bit
}

// Key implements Item.
func (m ReplyMark) Key() string { return "replymark " + familyWord(m.Family) + " dev " + m.Dev }
func (m ReplyMark) phase() int  { return phaseMasquerade }

func (m ReplyMark) String() string { return fmt.Sprintf("%s mark %#x", m.Key(), m.Mark) }

// SatisfiedBy implements Item.
func (m ReplyMark) SatisfiedBy(have Item) bool { return Item(m) == have }

// Replies plans a pod's replies through PodVeth, except the routes, which end with the
// link.
func Replies(families []inet.Family) State {
	var st State
	for _, f := range families {
		st = append(st,
			Rule{Family: f, Priority: replyRulePriority, Mark: replyMark, Table: replyTable, Proto: Protocol},
			ReplyMark{Family: f, Dev: PodVeth, Mark: replyMark})
	}
	return st
}

// replies plans the way of replies through the pair. A connection that a TCP server
// accepts takes over the mark (tcp_fwmark_accept), and so do the kernel's own replies,
// e.g. TCP resets and ICMP errors (fwmark_reflect).
func (b *builder) replies() {
	families := b.pod.Families()
	b.plan.Pod = append(b.plan.Pod, Replies(families)...)
	b.plan.Pod = append(b.plan.Pod, Sysctl{Path: "net/ipv4/tcp_fwmark_accept", Value: "1"})
	for _, f := range families {
		reflect := Sysctl{Path: "net/ipv4/fwmark_reflect", Value: "1"}
		if f == inet.IPv6 {
			reflect.Path = "net/ipv6/fwmark_reflect"
		}
		b.plan.Pod = append(b.plan.Pod, reflect, b.viaNode(f).route(f.Everything(), b.mainSource(f), replyTable))
	}
}
