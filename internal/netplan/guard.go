package netplan

import (
	"net/netip"
	"slices"
	"strings"
)

// Guard lets the pod send on link Dev only from its own addresses: from the hardware
// address MAC, and from the networks in From. It holds for ARP and NDP, too, and for
// packet sockets.
type Guard struct {
	Dev string
	MAC MAC
	// From are networks in CIDR notation, sorted and separated by commas. An empty text
	// permits no IP packets.
	From string
}

// NewGuard returns the guard of a link. It sorts the networks.
func NewGuard(dev string, mac MAC, from []netip.Prefix) Guard {
	from = slices.Clone(from)
	for i, p := range from {
		from[i] = p.Masked()
	}
	slices.SortFunc(from, comparePrefix)
	texts := make([]string, 0, len(from))
	for _, p := range slices.Compact(from) {
		texts = append(texts, p.String())
	}
	return Guard{Dev: dev, MAC: mac, From: strings.Join(texts, ",")}
}

// Networks returns the networks in From.
func (g Guard) Networks() (out []netip.Prefix) {
	for text := range strings.SplitSeq(g.From, ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Key implements Item.
func (g Guard) Key() string { return "guard " + g.Dev }
func (g Guard) phase() int  { return phaseGuard }

func (g Guard) String() string {
	text := "guard " + g.Dev + " mac " + g.MAC.String()
	if g.From != "" {
		text += " from " + g.From
	}
	return text
}

// SatisfiedBy implements Item.
func (g Guard) SatisfiedBy(have Item) bool { return Item(g) == have }

func (p *parser) guard() Guard {
	g := Guard{Dev: p.next()}
	g.MAC = parsed(p, p.named("mac"), parseMAC)
	var from []netip.Prefix
	if len(p.words) > 0 {
		for text := range strings.SplitSeq(p.named("from"), ",") {
			from = append(from, parsed(p, text, netip.ParsePrefix))
		}
	}
	return NewGuard(g.Dev, g.MAC, from)
}

// Guarding is the setting antiSpoof for the interface Dev of a pod.
type Guarding struct {
	Dev string
	On  bool
	// WithVeth means that Dev is the pod's first interface, and PodVeth belongs to it.
	WithVeth bool
	Addrs    []netip.Addr // the leased addresses of Dev
	// LinkLocal are the kernel's own addresses of Dev.
	LinkLocal []netip.Addr
	VethMAC   MAC
	VethAddr  netip.Addr // Settings.VethLinkAddr; may be the zero value
	// Exceptions are networks that the pod may use, too.
	Exceptions []netip.Prefix
}

// Plan returns the guards, given links and present guards. That of PodVeth permits the
// addresses of all interfaces: a later interface adds its own to the present ones.
func (g Guarding) Plan(have State) State {
	var st State
	var veth *Guard
	for _, it := range have {
		switch it := it.(type) {
		case Link:
			if g.On && it.Name == g.Dev {
				from := append(hosts(g.Addrs), hosts(append(g.LinkLocal, linkLocalOf(it.MAC)))...)
				st = append(st, NewGuard(g.Dev, it.MAC, append(from, g.Exceptions...)))
			}
		case Guard:
			if it.Dev == PodVeth {
				veth = &it
			}
		}
	}
	if !(g.On && g.WithVeth) && (veth == nil || g.WithVeth) {
		return st
	}
	from := append(hosts(g.Addrs), g.Exceptions...)
	if g.VethAddr.IsValid() {
		from = append(from, host(g.VethAddr))
	}
	if veth != nil {
		from = append(from, veth.Networks()...)
	}
	return append(st, NewGuard(PodVeth, g.VethMAC, from))
}

// Removable reports whether an unwanted item is a guard of an earlier Plan.
func (g Guarding) Removable(it Item) bool {
	guard, ok := it.(Guard)
	return ok && (guard.Dev == g.Dev || g.WithVeth && guard.Dev == PodVeth)
}

// GuardsWithout returns the changes of the guards for the removal of interface dev with
// its addresses.
func GuardsWithout(have State, dev string, addrs []netip.Addr) (out Changes) {
	for _, it := range have {
		guard, ok := it.(Guard)
		switch {
		case ok && guard.Dev == dev:
			out = append(out, Change{Old: guard})
		case ok && guard.Dev == PodVeth:
			left := slices.DeleteFunc(guard.Networks(), func(p netip.Prefix) bool { return p.IsSingleIP() && slices.Contains(addrs, p.Addr()) })
			if less := NewGuard(guard.Dev, guard.MAC, left); less != guard {
				out = append(out, Change{Old: guard, New: less})
			}
		}
	}
	return out
}

func hosts(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, host(a))
	}
	return out
}

// linkLocalOf returns the address that the kernel derives from a hardware address
// (RFC 4291, appendix A).
func linkLocalOf(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}
