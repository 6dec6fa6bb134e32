package packetfilter

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// frames judges Ethernet frames that leave an interface. A packet of the IP stack has a route (dst entry), and the hooks
// of the IP stack have judged it. A frame of a packet socket has none. It is judged alone: replies pass only if the pod
// may open connections to their destination.
//
// The rules compare bytes at fixed offsets of Ethernet, IPv4 (RFC 791) and IPv6 (RFC 8200), because the sender of a
// packet socket chooses the protocol and the offsets that the kernel notes.
type frames struct{}

const (
	offType      = 12
	offIPv4      = 14 // version, and length of the header
	offFragment  = 20
	offIPv4Proto = 23
	offIPv4To    = 30
	offIPv4Port  = 36 // of the destination, in an IPv4 packet without options
	offIPv6Next  = 20
	offIPv6To    = 38
	offIPv6Port  = 56
)

// withoutOptions is version 4 and a header of 20 bytes.
const withoutOptions = 0x45

// extensions are the IPv6 headers that hide the protocol (RFC 8200, section 4): hop-by-hop options, routing, fragment,
// authentication, destination options, mobility, HIP and Shim6.
var extensions = []byte{0, 43, 44, 51, 60, 135, 139, 140}

func load(offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: length}
}

func etherType(t uint16) []expr.Any {
	return []expr.Any{load(offType, 2), is(bigEndian.AppendUint16(nil, t)...)}
}

// hasRoute matches packets with a route, whatever its realm: without one, the kernel ends the rule.
var hasRoute = &expr.Meta{Key: expr.MetaKeyRTCLASSID, Register: register}

var loadMark = &expr.Meta{Key: expr.MetaKeyMARK, Register: register}

func (frames) first() [][]expr.Any {
	return [][]expr.Any{
		{hasRoute, loadMark, not(silentMark...), accept},
		{loadMark, is(silentMark...), drop}, // the hooks of the IP stack have counted it
		append(etherType(unix.ETH_P_ARP), accept),
	}
}

func (frames) peer(_ policy.Direction, f inet.Family) []expr.Any {
	if f == inet.IPv6 {
		return append(etherType(unix.ETH_P_IPV6), load(offIPv6To, 16))
	}
	return append(etherType(unix.ETH_P_IP), load(offIPv4To, 4))
}

func (frames) ports(p service.Protocol, m *nftables.Set) [][]expr.Any {
	v4 := append(etherType(unix.ETH_P_IP), load(offIPv4, 1), is(withoutOptions), load(offFragment, 2),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 2, Mask: []byte{0x1f, 0xff}, Xor: []byte{0, 0}}, is(0, 0),
		load(offIPv4Proto, 1), is(byte(p)), load(offIPv4Port, 2), toVerdict(m))
	v6 := append(etherType(unix.ETH_P_IPV6), load(offIPv6Next, 1), is(byte(p)), load(offIPv6Port, 2), toVerdict(m))
	return [][]expr.Any{v4, v6}
}

func (frames) others(chain string) [][]expr.Any {
	var ported []byte
	for _, p := range portProtocols {
		ported = append(ported, byte(p))
	}
	v4 := slices.Concat(etherType(unix.ETH_P_IP), []expr.Any{load(offIPv4Proto, 1)}, notAny(ported...), []expr.Any{goTo(chain)})
	v6 := slices.Concat(etherType(unix.ETH_P_IPV6), []expr.Any{load(offIPv6Next, 1)}, notAny(ported...), notAny(extensions...), []expr.Any{goTo(chain)})
	return [][]expr.Any{v4, v6}
}
