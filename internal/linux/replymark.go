package linux

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// UDP has no connections that could take over a mark, so a set remembers the flows that
// arrive on the link. A flow is forgotten after a minute without packets.
const (
	udpFlows       = "flows"
	udpFlowTimeout = time.Minute
	// maxUDPFlows bounds the set. It is as large as the connection tracking table of
	// a node with 8 CPUs under kube-proxy.
	maxUDPFlows = 1 << 18
)

// Registers of 4 bytes (NFT_REG32_00 and the following ones).
const firstRegister32 = 8

// beforeUse is behind all filters and translations of received packets, and beforeRoute
// behind the marks of other programs in sent ones.
var (
	beforeUse   = nftables.ChainPriorityRef(*nftables.ChainPriorityConntrackHelper)
	beforeRoute = nftables.ChainPriorityRef(*nftables.ChainPriorityMangle + 1)
)

// replyChains are the chains of a reply mark. They are few and short, because each packet
// of the pod passes them. Received packets, just before their sockets see them, so that
// the mark does not route what the pod only forwards:
//
//   - TCP packets of other interfaces lose all marks: with tcp_fwmark_accept, a server's
//     connection would otherwise take over the mark of a transparent proxy (TPROXY),
//     which routes to the proxy.
//   - Packets of the link get the mark.
//   - A UDP packet of the link enters the set, unless the pod itself has its source
//     behind the link: otherwise each answer of a ClusterIP's DNS server would take an
//     entry. Without fib, each does: Linux before 5.19 has no such lookup here.
//
// A sent UDP packet of a flow in the set gets the mark and a new route.
func replyChains(m netplan.ReplyMark, fib bool) []nftChain {
	dev := ifname(m.Dev)
	key := udpFlowOf(m.Family)
	arrived := meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, dev)
	var elsewhere []expr.Any
	if fib {
		elsewhere = []expr.Any{
			&expr.Fib{Register: 1, ResultOIFNAME: true, FlagSADDR: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: dev},
		}
	}
	remember := &expr.Dynset{SrcRegKey: firstRegister32, SetName: udpFlows, Operation: unix.NFT_DYNSET_OP_UPDATE}
	return []nftChain{
		{
			name: "input", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookInput, priority: beforeUse,
			rules: []nftRule{
				{"v1: connections keep no other mark", slices.Concat(meta(expr.MetaKeyIIFNAME, expr.CmpOpNeq, ifname("lo")), isProtocol(unix.IPPROTO_TCP), setMark(0))},
				{"v1: answers leave through " + m.Dev, slices.Concat(arrived, setMark(m.Mark))},
				{"v1: UDP clients behind " + m.Dev, slices.Concat(
					arrived, isProtocol(unix.IPPROTO_UDP), elsewhere, key.received, []expr.Any{remember})},
			},
		}, {
			name: "output", kind: nftables.ChainTypeRoute, hook: nftables.ChainHookOutput, priority: beforeRoute,
			rules: []nftRule{{"v1: answers to UDP clients behind " + m.Dev, slices.Concat(isProtocol(unix.IPPROTO_UDP), key.sent, []expr.Any{
				&expr.Lookup{SourceRegister: firstRegister32, SetName: udpFlows},
				remember,
			}, addMark(m.Mark))}},
		},
	}
}

// udpFlow loads the key of the set from a packet: the client's address and port, and the
// server's port.
type udpFlow struct {
	key            []nftables.SetDatatype
	received, sent []expr.Any
}

func udpFlowOf(f inet.Family) udpFlow {
	addr, size, source, destination := nftables.TypeIPAddr, uint32(4), uint32(12), uint32(16)
	if f == inet.IPv6 {
		addr, size, source, destination = nftables.TypeIP6Addr, 16, 8, 24
	}
	load := func(client, clientPort, serverPort uint32) []expr.Any {
		ports := firstRegister32 + size/4
		return []expr.Any{
			&expr.Payload{DestRegister: firstRegister32, Base: expr.PayloadBaseNetworkHeader, Offset: client, Len: size},
			&expr.Payload{DestRegister: ports, Base: expr.PayloadBaseTransportHeader, Offset: clientPort, Len: 2},
			&expr.Payload{DestRegister: ports + 1, Base: expr.PayloadBaseTransportHeader, Offset: serverPort, Len: 2},
		}
	}
	return udpFlow{
		key:      []nftables.SetDatatype{addr, nftables.TypeInetService, nftables.TypeInetService},
		received: load(source, 0, 2),
		sent:     load(destination, 2, 0),
	}
}

func (n *Namespace) addReplyMark(m netplan.ReplyMark) error {
	err := n.writeReplyMark(m, true)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // unknown, or unknown in this chain
		err = n.writeReplyMark(m, false)
	}
	if lacksNFT(err) {
		return fmt.Errorf("the kernel lacks nftables: build it with CONFIG_NF_TABLES_IPV4 and CONFIG_NF_TABLES_IPV6, or load their modules: %w", err)
	}
	return err
}

func (n *Namespace) writeReplyMark(m netplan.ReplyMark, fib bool) error {
	key, err := nftables.ConcatSetType(udpFlowOf(m.Family).key...)
	if err != nil {
		return err
	}
	flows := &nftables.Set{Name: udpFlows, KeyType: key, Concatenation: true, Dynamic: true, HasTimeout: true, Timeout: udpFlowTimeout, Size: maxUDPFlows}
	return n.replaceTable(nftFamily(m.Family), flows, replyChains(m, fib)...)
}

// ifname is the name of an interface in a register.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// addMark sets the bits of mark and keeps the others.
func addMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^mark), Xor: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}
