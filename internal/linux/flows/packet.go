package flows

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/service"
)

// etherSize is the size of an Ethernet header without a VLAN tag.
const etherSize = 14

// readFrame reads an Ethernet frame with an IP packet.
func readFrame(b []byte, e *flow.Event) bool {
	if len(b) < etherSize {
		return false
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_IP, unix.ETH_P_IPV6:
		return readPacket(b[etherSize:], e)
	}
	return false
}

// readPacket sets addresses, ports, protocol, TCP flags and ICMP type of an event to those of the start of an IP packet. It
// returns whether b is one. Ports are 0 behind IPv6 extension headers and in further fragments.
func readPacket(b []byte, e *flow.Event) bool {
	var source, destination netip.Addr
	var transport []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		source, destination = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		e.Protocol = service.Protocol(b[9])
		if size := int(b[0]&15) * 4; size >= 20 && size < len(b) && binary.BigEndian.Uint16(b[6:])&0x1fff == 0 {
			transport = b[size:]
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		source, destination = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		e.Protocol = service.Protocol(b[6])
		transport = b[40:]
	default:
		return false
	}
	var from, to uint16
	switch e.Protocol {
	case service.TCP, service.UDP, service.SCTP:
		if len(transport) >= 4 {
			from, to = binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
		}
		if e.Protocol == service.TCP && len(transport) > 13 {
			e.Flags = flow.TCPFlags(transport[13])
		}
	case flow.ICMPv4, flow.ICMPv6:
		if len(transport) >= 2 {
			e.ICMPType, e.ICMPCode = transport[0], transport[1]
		}
	}
	e.Source, e.Destination = netip.AddrPortFrom(source, from), netip.AddrPortFrom(destination, to)
	return true
}
