package packetfilter

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel tracks the connections of a pod from its first policy on. It would take the next packet of an older connection
// for the first one of a new connection, and a policy might drop it. Rules cannot tell the two apart: any process with a raw
// socket (NET_RAW) sends TCP segments without the flag SYN, so rules that let them pass would let everything pass. The
// sockets of the pod can, so their connections are entered into the tracking.

// maxConnections bounds the connections of a pod that outlive its first policy.
const maxConnections = 10_000

// States of TCP sockets, net/tcp_states.h, in which a connection carries data.
const connected = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 | 1<<unix.BPF_TCP_CLOSE_WAIT

// trackConnections has the kernel track the TCP connections of the namespace, unless it has a policy already. The calling
// thread is in the namespace.
func (s *socket) trackConnections() error {
	former, err := s.others(nftables.TableFamilyINet, nil)
	if err != nil || len(former) > 0 {
		return err
	}
	left := maxConnections
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := vnl.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, vnl.ErrDumpInterrupted) {
			return fmt.Errorf("list the TCP sockets: %w", err)
		}
		for _, one := range sockets {
			own, okOwn := netip.AddrFromSlice(one.ID.Source)
			peer, okPeer := netip.AddrFromSlice(one.ID.Destination)
			if connected>>one.State&1 == 0 || !okOwn || !okPeer || own.IsLoopback() || left == 0 {
				continue
			}
			left--
			from, to := netip.AddrPortFrom(own.Unmap(), one.ID.SourcePort), netip.AddrPortFrom(peer.Unmap(), one.ID.DestinationPort)
			if err := s.track(from, to); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("track the connection from %s to %s: %w", from, to, err)
			}
		}
	}
	return nil
}

// Attributes of a connection, linux/netfilter/nfnetlink_conntrack.h.
const (
	attrTupleOrig  = 1
	attrTupleReply = 2
	attrStatus     = 3
	attrProtoInfo  = 4
	attrTimeout    = 7

	attrTupleIP    = 1 // in a tuple
	attrTupleProto = 2

	attrSource4 = 1 // of addresses; the destination follows, and then those of IPv6
	attrSource6 = 3

	attrProtoNumber = 1 // of a protocol
	attrSourcePort  = 2
	attrTargetPort  = 3

	attrTCP      = 1 // of the protocol's state
	attrTCPState = 1
	attrTCPOrig  = 4
	attrTCPReply = 5
)

const (
	// establishedStatus has IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED of linux/netfilter/nf_conntrack_common.h.
	establishedStatus = 2 | 4 | 8
	// establishedState is TCP_CONNTRACK_ESTABLISHED of nf_conntrack_tcp.h, and liberal IP_CT_TCP_FLAG_BE_LIBERAL: the
	// windows are unknown.
	establishedState, liberal = 3, 8
	// establishedTimeout is the kernel's default, in seconds.
	establishedTimeout = 432_000
)

// track adds an established TCP connection.
func (s *socket) track(from, to netip.AddrPort) error {
	encoder := netlink.NewAttributeEncoder()
	encoder.ByteOrder = bigEndian
	encoder.Nested(attrTupleOrig, tuple(from, to))
	encoder.Nested(attrTupleReply, tuple(to, from))
	encoder.Uint32(attrStatus, establishedStatus)
	encoder.Uint32(attrTimeout, establishedTimeout)
	encoder.Nested(attrProtoInfo, func(info *netlink.AttributeEncoder) error {
		info.Nested(attrTCP, func(tcp *netlink.AttributeEncoder) error {
			tcp.Uint8(attrTCPState, establishedState)
			tcp.Bytes(attrTCPOrig, []byte{liberal, liberal})
			tcp.Bytes(attrTCPReply, []byte{liberal, liberal})
			return nil
		})
		return nil
	})
	attributes, err := encoder.Encode()
	if err != nil {
		return err
	}
	if err := s.extend(); err != nil {
		return err
	}
	family := byte(unix.AF_INET)
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	const create = unix.NFNL_SUBSYS_CTNETLINK << 8 // IPCTNL_MSG_CT_NEW is 0
	_, err = s.raw.Execute(message(create, netlink.Acknowledge|netlink.Create|netlink.Excl, family, 0, attributes))
	return err
}

// tuple encodes one direction of a connection.
func tuple(from, to netip.AddrPort) func(*netlink.AttributeEncoder) error {
	return func(t *netlink.AttributeEncoder) error {
		t.Nested(attrTupleIP, func(ip *netlink.AttributeEncoder) error {
			source := uint16(attrSource4)
			if from.Addr().Is6() {
				source = attrSource6
			}
			ip.Bytes(source, from.Addr().AsSlice())
			ip.Bytes(source+1, to.Addr().AsSlice())
			return nil
		})
		t.Nested(attrTupleProto, func(p *netlink.AttributeEncoder) error {
			p.ByteOrder = bigEndian
			p.Uint8(attrProtoNumber, unix.IPPROTO_TCP)
			p.Uint16(attrSourcePort, from.Port())
			p.Uint16(attrTargetPort, to.Port())
			return nil
		})
		return nil
	}
}
