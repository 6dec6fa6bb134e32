package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux/dad"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
)

// guardTable is our table of the family netdev in a pod, with two chains for each link.
const guardTable = "spiderpool-guard"

// A guard reads frames from their first byte on, because the protocol that the kernel
// notes for a packet is a claim of the packet socket that sent it. The offsets are those
// of Ethernet, ARP (RFC 826), IPv4 (RFC 791), IPv6 (RFC 8200) and ICMPv6 (RFC 4861).
const (
	offSource   = 6
	offType     = 12
	offARPForm  = 16 // protocol type, and the lengths of both addresses
	offARPMAC   = 22
	offARPFrom  = 28
	offARPFor   = 38
	offIPv4From = 26
	offIPv6Next = 20
	offIPv6Hops = 21
	offIPv6From = 22
	offICMPv6   = 54
	offTarget   = 62 // of neighbor solicitations and advertisements; also the type of ICMPv6 behind 8 bytes of options
)

// hiding are the IPv6 headers that can stand before ICMPv6 (RFC 8200, section 4):
// hop-by-hop options, routing, fragment, authentication, destination options, mobility,
// HIP and Shim6.
var hiding = []byte{0, 43, 44, 51, 60, 135, 139, 140}

const (
	nextICMPv6   = 58
	nextOptions  = 0
	ndpHops      = 255 // receivers ignore neighbor discovery with less (RFC 4861, section 7.1)
	routerAdvert = 134
	redirect     = 137
	neighSolicit = 135
	neighAdvert  = 136
)

// listenerReports are the types of MLD that a host sends from :: before it has an address
// (RFC 3590).
var listenerReports = []byte{131, 132, 143}

// match compares bytes of the frame at an offset.
func match(offset int, data []byte) []expr.Any { return compare(expr.CmpOpEq, offset, data) }

func differ(offset int, data []byte) []expr.Any { return compare(expr.CmpOpNeq, offset, data) }

func compare(op expr.CmpOp, offset int, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: uint32(offset), Len: uint32(len(data))},
		&expr.Cmp{Op: op, Register: 1, Data: data},
	}
}

// within matches an address in the frame with a network.
func within(offset int, p netip.Prefix) []expr.Any {
	address := p.Masked().Addr().AsSlice()
	exprs := compare(expr.CmpOpEq, offset, address)
	if p.IsSingleIP() {
		return exprs
	}
	mask := ipNet(p).Mask
	return []expr.Any{exprs[0],
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}, exprs[1]}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

var accept, drop, goBack = verdict(expr.VerdictAccept), verdict(expr.VerdictDrop), verdict(expr.VerdictReturn)

func etherType(t uint16) []expr.Any { return match(offType, binary.BigEndian.AppendUint16(nil, t)) }

// guardRules returns the rules of a link's chain, and those of its second chain, which
// drops neighbor discovery about foreign addresses. The second one is called targets. If logs is set, the first chain copies
// some of the packets with a foreign source to flow.LogGroup.
func guardRules(g netplan.Guard, targets string, logs bool) (rules, ofTargets [][]expr.Any) {
	add := func(parts ...[]expr.Any) { rules = append(rules, slices.Concat(parts...)) }
	v4, v6, arp := etherType(unix.ETH_P_IP), etherType(unix.ETH_P_IPV6), etherType(unix.ETH_P_ARP)
	icmp := slices.Concat(v6, match(offIPv6Next, []byte{nextICMPv6}))
	unspecified4, unspecified6 := make([]byte, 4), make([]byte, 16)
	check := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: targets}}

	if logs {
		add(differ(offSource, g.MAC[:]), LogRule(flow.Logged{Reason: flow.BySpoofing, Direction: policy.Egress, Interface: g.Dev}))
	}
	add(differ(offSource, g.MAC[:]), drop)
	add(arp, differ(offARPForm, []byte{8, 0, 6, 4}), drop)
	add(arp, differ(offARPMAC, g.MAC[:]), drop)
	for _, next := range hiding {
		add(v6, match(offIPv6Next, []byte{next}), match(offIPv6Hops, []byte{ndpHops}), drop)
	}
	add(icmp, match(offICMPv6, []byte{routerAdvert}), drop)
	add(icmp, match(offICMPv6, []byte{redirect}), drop)
	add(icmp, match(offICMPv6, []byte{neighAdvert}), check)
	add(icmp, match(offIPv6From, unspecified6), match(offICMPv6, []byte{neighSolicit}), check)
	add(icmp, match(offIPv6From, unspecified6), match(offICMPv6, []byte{neighSolicit}), accept)
	for _, report := range listenerReports {
		add(v6, match(offIPv6From, unspecified6), match(offIPv6Next, []byte{nextOptions}), match(offICMPv6, []byte{nextICMPv6}), match(offTarget, []byte{report}), accept)
	}
	for _, p := range g.Networks() {
		if p.Addr().Is6() {
			add(v6, within(offIPv6From, p), accept)
			ofTargets = append(ofTargets, slices.Concat(within(offTarget, p), goBack))
			continue
		}
		add(v4, within(offIPv4From, p), accept)
		add(arp, within(offARPFrom, p), accept)
		add(arp, match(offARPFrom, unspecified4), within(offARPFor, p), accept) // a probe (RFC 5227)
	}
	if logs {
		add(LogRule(flow.Logged{Reason: flow.BySpoofing, Direction: policy.Egress, Interface: g.Dev}))
	}
	add([]expr.Any{&expr.Counter{}}, drop)
	return rules, append(ofTargets, slices.Concat([]expr.Any{&expr.Counter{}}, drop))
}

// errNoEgress means that the kernel cannot judge the frames that a pod sends.
var errNoEgress = errors.New("the kernel has no nftables hook for outgoing frames (family netdev, hook egress): antiSpoof needs Linux 5.16 or later with CONFIG_NETFILTER_EGRESS")

func guardChains(dev string) (base, targets string) { return "egress-" + dev, "targets-" + dev }

// addGuard replaces the rules of a link in one transaction, so that a running pod is
// never without them.
func (n *Namespace) addGuard(g netplan.Guard) error {
	err := n.setGuard(g, true)
	if err != nil { // perhaps the kernel has no nflog
		err = n.setGuard(g, false)
	}
	if lacksNFT(err) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", errNoEgress, err)
	}
	return err
}

func (n *Namespace) setGuard(g netplan.Guard, logs bool) error {
	return n.withNFT(func(c *nftables.Conn) error {
		t := c.AddTable(&nftables.Table{Name: guardTable, Family: nftables.TableFamilyNetdev})
		name, nameOfTargets := guardChains(g.Dev)
		policy := nftables.ChainPolicyDrop
		base := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress,
			Priority: nftables.ChainPriorityRaw, Policy: &policy, Device: g.Dev})
		targets := c.AddChain(&nftables.Chain{Name: nameOfTargets, Table: t})
		c.FlushChain(base)
		c.FlushChain(targets)
		rules, ofTargets := guardRules(g, nameOfTargets, logs)
		for _, exprs := range ofTargets {
			c.AddRule(&nftables.Rule{Table: t, Chain: targets, Exprs: exprs})
		}
		texts := commentsOf(g)
		for i, exprs := range rules {
			rule := &nftables.Rule{Table: t, Chain: base, Exprs: exprs}
			if i < len(texts) {
				rule.UserData = comment(texts[i])
			}
			c.AddRule(rule)
		}
		return c.Flush()
	})
}

// commentsOf splits the text of a guard, which a rule's comment cannot hold. We recognize
// a guard by the comments of its rules, like a masquerading.
func commentsOf(g netplan.Guard) (out []string) {
	for chunk := range slices.Chunk([]byte(guardVersion+g.String()), maxComment) {
		out = append(out, string(chunk))
	}
	return out
}

const (
	// guardVersion changes with the rules, so that a later release replaces them.
	guardVersion = "v1: "
	// maxComment is less than NFT_USERDATA_MAXLEN, 256 bytes.
	maxComment = 200
)

// Guards reads the guards of a pod's links. It returns none on a kernel without nftables.
func (n *Namespace) Guards() (netplan.State, error) {
	var out netplan.State
	err := n.withNFT(func(c *nftables.Conn) error {
		chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		for _, chain := range chains {
			dev, ours := strings.CutPrefix(chain.Name, "egress-")
			if chain.Table.Name != guardTable || !ours {
				continue
			}
			rules, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			if g, ok := guardOf(dev, rules); ok {
				out = append(out, g)
			}
		}
		return nil
	})
	if lacksNFT(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the guards in %s: %w", n.path, err)
	}
	return out, nil
}

// guardOf returns the guard with these rules.
func guardOf(dev string, rules []*nftables.Rule) (netplan.Guard, bool) {
	text := ""
	for _, r := range rules {
		if len(r.UserData) > 3 {
			text += string(r.UserData[2 : len(r.UserData)-1])
		}
	}
	text, ok := strings.CutPrefix(text, guardVersion)
	st, err := netplan.Parse(text)
	if !ok || err != nil || len(st) != 1 {
		return netplan.Guard{}, false
	}
	g, ok := st[0].(netplan.Guard)
	return g, ok && g.Dev == dev
}

// removeGuard removes the chains of a link, and the table with the last one.
func (n *Namespace) removeGuard(g netplan.Guard) error {
	left, err := n.Guards()
	if err != nil {
		return err
	}
	return n.withNFT(func(c *nftables.Conn) error {
		t := &nftables.Table{Name: guardTable, Family: nftables.TableFamilyNetdev}
		if !slices.ContainsFunc(left, func(it netplan.Item) bool { return it.Key() != g.Key() }) {
			c.DelTable(t)
			return c.Flush()
		}
		base, targets := guardChains(g.Dev)
		for _, name := range []string{base, targets} {
			c.FlushChain(&nftables.Chain{Name: name, Table: t})
			c.DelChain(&nftables.Chain{Name: name, Table: t})
		}
		return c.Flush()
	})
}

// LinkLocal returns the link-local IPv6 addresses of a link.
func (n *Namespace) LinkLocal(dev string) (out []netip.Addr, err error) {
	err = n.Do(func() error {
		addrs, err := dad.Addrs(dev)
		for _, a := range addrs {
			if a.IsLinkLocalUnicast() {
				out = append(out, a.Addr)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s in %s: %w", dev, n.path, err)
	}
	return out, nil
}

// TryGuard guards a link in a temporary namespace. It returns the reason if the kernel
// cannot.
func TryGuard() error {
	return inTrial(func(trial *Namespace, parent netlink.Link) error {
		return trial.addGuard(netplan.NewGuard(parent.Attrs().Name, netplan.MAC{2}, nil))
	})
}
