// Package probe resolves addresses on a link and announces addresses to it, by ARP
// (RFC 826, RFC 5227) and neighbor discovery (RFC 4861, RFC 4862).
//
// It uses packet sockets, so the interface needs neither the source nor the target
// address. All functions work in the network namespace of the calling thread. If
// the process uses several namespaces, the caller must lock its goroutine to the
// thread during the call.
package probe

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Options set the number and the timing of questions.
type Options struct {
	Attempts int           // number of questions, 1 or more
	Interval time.Duration // pause after an unanswered question
	Timeout  time.Duration // wait for each answer
}

// Default takes a third of a second for an unused address. RFC 5227 and RFC 4862
// wait for seconds: too long for the start of a pod.
var Default = Options{Attempts: 3, Interval: 10 * time.Millisecond, Timeout: 100 * time.Millisecond}

// question is a frame asking for an address, and the recognition of its answers.
type question struct {
	frame ethernet.Frame
	// groups are the multicast destinations of answers; answers may also go to the
	// interface itself.
	groups []net.HardwareAddr
	// holder returns the hardware address of the machine claiming the address in a
	// received frame, or nil.
	holder func(received ethernet.Frame) net.HardwareAddr
}

// Resolve asks the machines on an Ethernet link for an address. It returns the
// hardware address in the first answer, ignoring the interface's own, or nil
// without an answer. from is the source address of the question. The zero value
// means a probe before use (RFC 5227, section 2.1.1; RFC 4862, section 5.4): it
// changes no neighbor cache, and other machines probing the address at the same
// time count as holders.
func Resolve(ifi *net.Interface, addr, from netip.Addr, o Options) (net.HardwareAddr, error) {
	holder, err := ask(ifi, addr, from, o)
	if err != nil {
		return nil, fmt.Errorf("resolve %[2]s on %[1]s: %[3]w", ifi.Name, addr, err)
	}
	return holder, nil
}

func ask(ifi *net.Interface, addr, from netip.Addr, o Options) (net.HardwareAddr, error) {
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("%s is not an Ethernet interface: its hardware address is %q", ifi.Name, ifi.HardwareAddr)
	}
	phrase := arpQuestion
	if addr.Is6() {
		phrase = ndpQuestion
	}
	q, err := phrase(ifi.HardwareAddr, addr, from)
	if err != nil {
		return nil, err
	}
	conn, err := listen(ifi, q.frame.EtherType, q.groups...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for i := range o.Attempts {
		if i > 0 {
			time.Sleep(o.Interval)
		}
		if err := send(conn, q.frame); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(o.Timeout)); err != nil {
			return nil, err
		}
		holder, err := answer(conn, ifi, q)
		if holder != nil || err != nil {
			return holder, err
		}
	}
	return nil, nil
}

// Control asks the link for addresses that no machine can have, one after the other. It
// returns the first that a machine claims all the same: then the link answers for every
// address, e.g. by proxy ARP (RFC 1027), and an answer proves nothing. It returns the
// zero value if none is claimed. near is an address with its subnet.
//
// The addresses are the network address of an IPv4 subnet, a random one of a documentation
// network (RFC 5737; RFC 9637), and a random one in the /64 of an IPv6 address.
func Control(ifi *net.Interface, near netip.Prefix, o Options) (netip.Addr, error) {
	for _, addr := range impossible(near) {
		if holder, err := Resolve(ifi, addr, netip.Addr{}, o); holder != nil || err != nil {
			return addr, err
		}
	}
	return netip.Addr{}, nil
}

// impossible returns addresses that no machine on the link of near can have. They are
// random where they can be, so that a pod that answers for all addresses cannot leave
// them out.
func impossible(near netip.Prefix) []netip.Addr {
	if near.Addr().Is6() {
		inSubnet, outside := near.Addr().As16(), netip.MustParseAddr("3fff:fff::").As16()
		_, _ = rand.Read(inSubnet[8:]) // never fails, see its documentation
		_, _ = rand.Read(outside[4:])
		return []netip.Addr{netip.AddrFrom16(inSubnet), netip.AddrFrom16(outside)}
	}
	documentation := netip.MustParsePrefix("203.0.113.0/24")
	if near.Overlaps(documentation) {
		documentation = netip.MustParsePrefix("198.51.100.0/24")
	}
	outside := documentation.Addr().As4()
	_, _ = rand.Read(outside[3:])
	addrs := []netip.Addr{netip.AddrFrom4(outside)}
	if near.Bits() <= 30 {
		addrs = append(addrs, near.Masked().Addr())
	}
	return addrs
}

// answer reads frames until another machine claims the address or the deadline
// passes.
func answer(conn *packet.Conn, ifi *net.Interface, q question) (net.HardwareAddr, error) {
	b := make([]byte, ifi.MTU+18)
	for {
		n, _, err := conn.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var received ethernet.Frame
		if received.UnmarshalBinary(b[:n]) != nil {
			continue // a malformed frame is not an answer
		}
		holder := q.holder(received)
		if len(holder) == len(ifi.HardwareAddr) && holder.String() != ifi.HardwareAddr.String() {
			return holder, nil
		}
	}
}

// Announce announces to an Ethernet link that the address has moved to the
// interface's hardware address, by gratuitous ARP (RFC 5227, section 3) or an
// unsolicited neighbor advertisement (RFC 4861, section 7.2.6).
func Announce(ifi *net.Interface, addr netip.Addr) error {
	if err := announce(ifi, addr); err != nil {
		return fmt.Errorf("announce %s on %s: %w", addr, ifi.Name, err)
	}
	return nil
}

func announce(ifi *net.Interface, addr netip.Addr) error {
	frame, err := announcement(ifi.HardwareAddr, addr)
	if err != nil {
		return err
	}
	conn, err := listen(ifi, frame.EtherType)
	if err != nil {
		return err
	}
	defer conn.Close()
	return send(conn, frame)
}

func announcement(mac net.HardwareAddr, addr netip.Addr) (ethernet.Frame, error) {
	if addr.Is4() {
		q, err := arpQuestion(mac, addr, addr)
		return q.frame, err
	}
	return ndpFrame(mac, addr, netip.IPv6LinkLocalAllNodes(), &ndp.NeighborAdvertisement{
		Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	})
}

// listen opens a socket for frames of this EtherType, sent to the interface or to
// the groups.
func listen(ifi *net.Interface, kind ethernet.EtherType, groups ...net.HardwareAddr) (*packet.Conn, error) {
	conn, err := packet.Listen(ifi, packet.Raw, int(kind), nil)
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		if err := join(conn, ifi, group); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("join %s: %w", group, err)
		}
	}
	return conn, nil
}

// join makes the interface receive a multicast group while the socket is open
// (packet(7), PACKET_ADD_MEMBERSHIP).
func join(conn *packet.Conn, ifi *net.Interface, group net.HardwareAddr) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	request := unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
	copy(request.Address[:], group)
	var joined error
	err = raw.Control(func(fd uintptr) {
		joined = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &request)
	})
	return errors.Join(err, joined)
}

func send(conn *packet.Conn, frame ethernet.Frame) error {
	b, err := frame.MarshalBinary()
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(b, &packet.Addr{HardwareAddr: frame.Destination})
	return err
}

func arpQuestion(mac net.HardwareAddr, addr, from netip.Addr) (question, error) {
	probing := !from.IsValid()
	if probing {
		from = netip.IPv4Unspecified()
	}
	request, err := arp.NewPacket(arp.OperationRequest, mac, from, ethernet.Broadcast, addr)
	if err != nil {
		return question{}, err
	}
	payload, err := request.MarshalBinary()
	if err != nil {
		return question{}, err
	}
	return question{
		frame: ethernet.Frame{Destination: ethernet.Broadcast, Source: mac, EtherType: ethernet.EtherTypeARP, Payload: payload},
		holder: func(received ethernet.Frame) net.HardwareAddr {
			var p arp.Packet
			if p.UnmarshalBinary(received.Payload) != nil {
				return nil
			}
			if p.SenderIP == addr || probing && p.SenderIP.IsUnspecified() && p.TargetIP == addr {
				return p.SenderHardwareAddr
			}
			return nil
		},
	}, nil
}

func ndpQuestion(mac net.HardwareAddr, addr, from netip.Addr) (question, error) {
	probing := !from.IsValid()
	solicitation := &ndp.NeighborSolicitation{TargetAddress: addr}
	if probing {
		from = netip.IPv6Unspecified()
	} else {
		solicitation.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return question{}, err
	}
	frame, err := ndpFrame(mac, from, group, solicitation)
	// A machine using the address answers to all nodes; a machine probing it sends
	// its own question to the address's solicited-node group.
	groups := []net.HardwareAddr{groupMAC(netip.IPv6LinkLocalAllNodes()), groupMAC(group)}
	return question{frame: frame, groups: groups, holder: func(received ethernet.Frame) net.HardwareAddr {
		source, message := ndpMessage(received.Payload)
		switch m := message.(type) {
		case *ndp.NeighborAdvertisement:
			if m.TargetAddress == addr {
				return advertised(m, received.Source)
			}
		case *ndp.NeighborSolicitation:
			if probing && source.IsUnspecified() && m.TargetAddress == addr {
				return received.Source
			}
		}
		return nil
	}}, err
}

// advertised returns the target hardware address of an advertisement, or else its
// sender.
func advertised(m *ndp.NeighborAdvertisement, from net.HardwareAddr) net.HardwareAddr {
	for _, o := range m.Options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == ndp.Target {
			return l.Addr
		}
	}
	return from
}

const (
	ipv6HeaderLength = 40
	protocolICMPv6   = 58
	// hopLimit of every neighbor discovery message, so that none comes from behind a
	// router (RFC 4861, section 7.1).
	hopLimit = 255
)

// ndpFrame wraps a message in an IPv6 packet (RFC 8200, section 3) to a multicast
// address.
func ndpFrame(mac net.HardwareAddr, from, to netip.Addr, m ndp.Message) (ethernet.Frame, error) {
	body, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		return ethernet.Frame{}, err
	}
	packet := []byte{6 << 4, 0, 0, 0}
	packet = binary.BigEndian.AppendUint16(packet, uint16(len(body)))
	packet = append(packet, protocolICMPv6, hopLimit)
	packet = append(append(packet, from.AsSlice()...), to.AsSlice()...)
	return ethernet.Frame{
		Destination: groupMAC(to), Source: mac, EtherType: ethernet.EtherTypeIPv6, Payload: append(packet, body...),
	}, nil
}

// groupMAC returns the hardware address of a multicast address (RFC 2464, section 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// ndpMessage returns the neighbor discovery message of an IPv6 packet and its
// source, or nil for any other packet.
func ndpMessage(b []byte) (source netip.Addr, m ndp.Message) {
	if len(b) < ipv6HeaderLength || b[0]>>4 != 6 || b[6] != protocolICMPv6 || b[7] != hopLimit {
		return netip.Addr{}, nil
	}
	length := int(binary.BigEndian.Uint16(b[4:6]))
	body := b[ipv6HeaderLength:]
	if length > len(body) {
		return netip.Addr{}, nil
	}
	m, err := ndp.ParseMessage(body[:length])
	if err != nil {
		return netip.Addr{}, nil
	}
	return netip.AddrFrom16([16]byte(b[8:24])), m
}
