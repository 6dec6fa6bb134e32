package netplan

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Protocol marks our routes and rules (rtm_protocol and FRA_PROTOCOL). iproute2's
// rt_protos does not assign this value.
const Protocol = 83

// Protocols of the kernel's own routes: RTPROT_KERNEL for the networks of addresses
// and of router advertisements, RTPROT_RA for learned default routes.
const (
	protoKernel = 2
	protoRA     = 9
)

// TableMain is the main routing table, RT_TABLE_MAIN.
const TableMain = 254

// Item is one fact about the kernel's networking state.
type Item interface {
	// Key identifies the fact; two items with the same key exclude each other.
	Key() string
	// String returns the text form: one line, in the syntax of Parse.
	String() string
	// SatisfiedBy reports whether have is the same fact with all non-zero fields of
	// this item.
	SatisfiedBy(have Item) bool
	// phase is the position in the order of application.
	phase() int
}

// The order of application: an item comes after its prerequisites.
const (
	phaseLink = iota
	phaseSysctl
	phaseForwarding6
	phaseUp
	phaseAddr
	phaseNeighbor
	phaseLinkRoute
	phaseGatewayRoute
	phaseRule
	phaseMasquerade
	phaseShaper
	phaseRedirect
	phaseGuard
)

// MAC is an EUI-48 hardware address; the zero value means none.
type MAC [6]byte

// parseMAC parses a hardware address, e.g. "02:00:5e:10:00:01".
func parseMAC(s string) (MAC, error) {
	parsed, err := net.ParseMAC(s)
	if err != nil || len(parsed) != len(MAC{}) {
		return MAC{}, fmt.Errorf("hardware address %q is not six bytes, e.g. 02:00:5e:10:00:01", s)
	}
	return MAC(parsed), nil
}

// IsZero reports whether m is the zero value.
func (m MAC) IsZero() bool { return m == MAC{} }

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Link is a network interface.
type Link struct {
	Name string
	// Kind is the kernel's name of the link type. Plans create and delete links of the
	// kinds "veth" and "ifb"; for all others Kind is empty and plans only set attributes.
	Kind string
	// Peer and PeerMAC describe the other end of a veth pair, in the other namespace
	// of the plan.
	Peer       string
	PeerMAC    MAC
	MAC        MAC
	MTU        int // bytes; of both ends of a veth pair
	TxQueueLen int // packets
	Group      int // IFLA_GROUP; set when the link is created
}

// Key implements Item.
func (l Link) Key() string { return "link " + l.Name }
func (l Link) phase() int  { return phaseLink }

func (l Link) String() string {
	var b strings.Builder
	b.WriteString("link " + l.Name)
	word(&b, "kind", l.Kind)
	word(&b, "peer", l.Peer)
	if !l.PeerMAC.IsZero() {
		word(&b, "peermac", l.PeerMAC.String())
	}
	if !l.MAC.IsZero() {
		word(&b, "mac", l.MAC.String())
	}
	number(&b, "mtu", l.MTU)
	number(&b, "txqueuelen", l.TxQueueLen)
	number(&b, "group", l.Group)
	return b.String()
}

// SatisfiedBy implements Item. It ignores the peer, in the other namespace: peer
// fields only matter when the pair is created.
func (l Link) SatisfiedBy(have Item) bool {
	h, ok := have.(Link)
	return ok && l.Name == h.Name &&
		(l.Kind == "" || l.Kind == h.Kind) &&
		(l.MAC.IsZero() || l.MAC == h.MAC) &&
		(l.MTU == 0 || l.MTU == h.MTU) &&
		(l.TxQueueLen == 0 || l.TxQueueLen == h.TxQueueLen) &&
		(l.Group == 0 || l.Group == h.Group)
}

// Up means that an interface is up.
type Up struct {
	Dev string
}

// Key implements Item.
func (u Up) Key() string    { return "up " + u.Dev }
func (u Up) String() string { return u.Key() }
func (u Up) phase() int     { return phaseUp }

// SatisfiedBy implements Item.
func (u Up) SatisfiedBy(have Item) bool { return Item(u) == have }

// Addr is an address of an interface.
type Addr struct {
	Prefix netip.Prefix
	Dev    string
	// Learned means that the kernel made it from a router advertisement.
	Learned bool
}

// Key implements Item.
func (a Addr) Key() string { return "addr " + a.Prefix.Addr().String() + " dev " + a.Dev }
func (a Addr) phase() int  { return phaseAddr }

func (a Addr) String() string {
	text := "addr " + a.Prefix.String() + " dev " + a.Dev
	if a.Learned {
		text += " learned"
	}
	return text
}

// SatisfiedBy implements Item.
func (a Addr) SatisfiedBy(have Item) bool { return Item(a) == have }

// Route is a unicast route with one next hop.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // the gateway; the zero value if Dst is on the link
	Dev    string
	Src    netip.Addr // the preferred source address
	Table  int        // 0 means TableMain
	Metric int        // 0 means the kernel's default for the family
	OnLink bool       // Via is on the link, though outside all subnets of Dev
	Proto  int        // origin, rtm_protocol
}

func (r Route) table() int {
	if r.Table == 0 {
		return TableMain
	}
	return r.Table
}

// Key implements Item. The kernel keeps a learned route next to a configured one.
func (r Route) Key() string {
	key := fmt.Sprintf("route %s table %d metric %d", r.Dst, r.table(), r.Metric)
	if r.Proto == protoRA {
		key += " learned"
	}
	return key
}

func (r Route) phase() int {
	if r.Via.IsValid() {
		return phaseGatewayRoute
	}
	return phaseLinkRoute
}

func (r Route) String() string {
	var b strings.Builder
	b.WriteString("route " + r.Dst.String())
	if r.Via.IsValid() {
		word(&b, "via", r.Via.String())
	}
	word(&b, "dev", r.Dev)
	if r.Src.IsValid() {
		word(&b, "src", r.Src.String())
	}
	if r.table() != TableMain {
		number(&b, "table", r.Table)
	}
	number(&b, "metric", r.Metric)
	if r.OnLink {
		b.WriteString(" onlink")
	}
	number(&b, "proto", r.Proto)
	return b.String()
}

// SatisfiedBy implements Item. It ignores the origin of the route.
func (r Route) SatisfiedBy(have Item) bool {
	h, ok := have.(Route)
	return ok && r.Key() == h.Key() && r.Via == h.Via && r.Dev == h.Dev && (!r.Src.IsValid() || r.Src == h.Src)
}

// IsDefault reports whether the route is a default route.
func (r Route) IsDefault() bool { return r.Dst.Bits() == 0 }

// Rule selects a table for packets from From with the mark.
type Rule struct {
	Family   inet.Family
	Priority int
	From     netip.Prefix // the zero value is "all"
	Mark     uint32       // all of its bits must be set; 0 is any mark
	Table    int
	Proto    int // origin, FRA_PROTOCOL
}

// Key implements Item.
func (r Rule) Key() string {
	mark := ""
	if r.Mark != 0 {
		mark = fmt.Sprintf(" fwmark %#x", r.Mark)
	}
	return fmt.Sprintf("rule %s %d from %s%s lookup %d", familyWord(r.Family), r.Priority, r.from(), mark, r.Table)
}

func (r Rule) phase() int { return phaseRule }

func (r Rule) from() string {
	if !r.From.IsValid() {
		return "all"
	}
	return r.From.String()
}

func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(r.Key())
	number(&b, "proto", r.Proto)
	return b.String()
}

// SatisfiedBy implements Item.
func (r Rule) SatisfiedBy(have Item) bool { return r.Key() == have.Key() }

// Neighbor is a permanent entry of the neighbor table.
type Neighbor struct {
	Addr netip.Addr
	MAC  MAC
	Dev  string
}

// Key implements Item.
func (n Neighbor) Key() string { return "neighbor " + n.Addr.String() + " dev " + n.Dev }
func (n Neighbor) String() string {
	return "neighbor " + n.Addr.String() + " mac " + n.MAC.String() + " dev " + n.Dev
}
func (n Neighbor) phase() int { return phaseNeighbor }

// SatisfiedBy implements Item.
func (n Neighbor) SatisfiedBy(have Item) bool { return Item(n) == have }

// Sysctl is a kernel parameter of the namespace.
type Sysctl struct {
	Path  string // below /proc/sys, e.g. "net/ipv4/ip_forward"
	Value string
}

// Key implements Item.
func (s Sysctl) Key() string    { return "sysctl " + s.Path }
func (s Sysctl) String() string { return "sysctl " + s.Path + " = " + s.Value }

// accept_ra must be written before forwarding is enabled: the kernel then forgets
// the default routers learned on links with an accept_ra other than 2.
func (s Sysctl) phase() int {
	if s.Path == forwarding6 {
		return phaseForwarding6
	}
	return phaseSysctl
}

// SatisfiedBy implements Item.
func (s Sysctl) SatisfiedBy(have Item) bool { return Item(s) == have }

// Masquerade is the source translation of packets forwarded from links with the
// name prefix Links, or to them after destination translation. Links of ReplyGroup get
// TCP and UDP packets as they are.
type Masquerade struct {
	Family inet.Family
	Links  string
}

// Key implements Item.
func (m Masquerade) Key() string    { return "masquerade " + familyWord(m.Family) + " links " + m.Links }
func (m Masquerade) String() string { return m.Key() }
func (m Masquerade) phase() int     { return phaseMasquerade }

// SatisfiedBy implements Item.
func (m Masquerade) SatisfiedBy(have Item) bool { return Item(m) == have }

// familyWord returns the family's word in the text form: "ip" or "ip6".
func familyWord(f inet.Family) string {
	if f == inet.IPv6 {
		return "ip6"
	}
	return "ip"
}

// host returns the prefix with a as its only address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func word(b *strings.Builder, name, value string) {
	if value != "" {
		b.WriteString(" " + name + " " + value)
	}
}

func number(b *strings.Builder, name string, value int) {
	if value != 0 {
		b.WriteString(" " + name + " " + strconv.Itoa(value))
	}
}
