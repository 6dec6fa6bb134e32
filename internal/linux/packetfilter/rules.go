package packetfilter

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	register = 1
	second   = 2 // the register behind it, in a key of two parts
	verdict  = 0 // the register that ends a chain
)

var (
	accept = &expr.Verdict{Kind: expr.VerdictAccept}
	drop   = &expr.Verdict{Kind: expr.VerdictDrop}
	// pass ends the judgment of one side. On a node, that of the other end follows.
	pass = &expr.Verdict{Kind: expr.VerdictReturn}
)

func goTo(chain string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

var portProtocols = []service.Protocol{service.TCP, service.UDP, service.SCTP}

// judge are the rules of a side that depend on the table: where a packet has its addresses and ports.
type judge interface {
	// first returns the rules before those about peers.
	first() [][]expr.Any
	// peer loads the peer of a packet of the family; other packets do not match.
	peer(policy.Direction, inet.Family) []expr.Any
	// ports returns rules that look up the packet's port in m.
	ports(p service.Protocol, m *nftables.Set) [][]expr.Any
	// others returns rules that lead the protocols without ports to the chain.
	others(chain string) [][]expr.Any
}

func lookup(s *nftables.Set) *expr.Lookup {
	return &expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID}
}

// toVerdict looks up the verdict of the register in m.
func toVerdict(m *nftables.Set) *expr.Lookup {
	return &expr.Lookup{SourceRegister: register, DestRegister: verdict, IsDestRegSet: true, SetName: m.Name, SetID: m.ID}
}

func meta(key expr.MetaKey, data ...byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}, is(data...)}
}

func is(data ...byte) expr.Any  { return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data} }
func not(data ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: data} }

func notAny(bytes ...byte) (all []expr.Any) {
	for _, b := range bytes {
		all = append(all, not(b))
	}
	return all
}

func isFamily(f inet.Family) []expr.Any {
	number := byte(unix.NFPROTO_IPV4)
	if f == inet.IPv6 {
		number = unix.NFPROTO_IPV6
	}
	return meta(expr.MetaKeyNFPROTO, number)
}

// establishedRule accepts packets of known connections, and ICMP errors about them.
func establishedRule() []expr.Any {
	states := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: states, Xor: make([]byte, 4)},
		not(0, 0, 0, 0),
		accept,
	}
}

// dropChain is the name of the chain that ends a side.
func dropChain(side string) string { return side + "-drop" }

// dropRules are those of the last chain of a side. If logs is set, they copy some of the packets to flow.LogGroup.
func (s *side) dropRules(logs bool) (rules [][]expr.Any) {
	if logs {
		rules = append(rules, linux.LogRule(flow.Logged{Reason: flow.ByPolicy, Direction: s.direction, Interface: s.drops.Interface, Link: s.drops.Link}))
	}
	count := &expr.Objref{Type: int(nftables.ObjTypeCounter), Name: s.name}
	if s.silent != 0 {
		rules = append(rules, slices.Concat(
			meta(expr.MetaKeyL4PROTO, unix.IPPROTO_UDP),
			meta(expr.MetaKeyOIF, binaryutil.NativeEndian.PutUint32(uint32(s.silent))...),
			[]expr.Any{count}, silence()))
	}
	return append(rules, []expr.Any{count, drop})
}

// packets judges packets of the IP stack.
type packets struct{}

func (packets) first() (rules [][]expr.Any) {
	for _, types := range [][2]byte{{neighborFirst, neighborLast}, {mldV2, mldV2}} {
		rules = append(rules, slices.Concat(meta(expr.MetaKeyL4PROTO, protocolICMPv6), []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Range{Op: expr.CmpOpEq, Register: register, FromData: types[:1], ToData: types[1:]},
			pass,
		}))
	}
	return rules
}

func (packets) peer(d policy.Direction, f inet.Family) []expr.Any {
	return append(isFamily(f), addressOf(d == policy.Ingress, f, register))
}

// addressOf loads the source or the destination of an IP packet.
func addressOf(source bool, f inet.Family, to uint32) expr.Any {
	offset, length := uint32(12), uint32(4)
	if f == inet.IPv6 {
		offset, length = 8, 16
	}
	if !source {
		offset += length // the destination follows the source
	}
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func (packets) ports(p service.Protocol, m *nftables.Set) [][]expr.Any {
	return [][]expr.Any{append(meta(expr.MetaKeyL4PROTO, byte(p)),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, toVerdict(m))}
}

func (packets) others(chain string) [][]expr.Any {
	rule := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}}
	for _, p := range portProtocols {
		rule = append(rule, not(byte(p)))
	}
	return [][]expr.Any{append(rule, goTo(chain))}
}
