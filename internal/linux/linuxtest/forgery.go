//go:build linux

package linuxtest

import (
	"encoding/binary"
	"net"
	"slices"
)

// Sender is a pod that sends frames of its own and of others.
type Sender struct {
	MAC        net.HardwareAddr
	IPv4, IPv6 string // its addresses
	Permitted  string // another IPv4 address that it may use
}

// Forgery is an Ethernet frame to all, and whether a pod's guard lets it pass.
type Forgery struct {
	Name   string
	Frame  []byte
	Passes bool
}

// PermittedForgery is the name of the frame from Sender.Permitted.
const PermittedForgery = "IPv4, permitted by the annotation"

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// Forgeries returns frames that a pod may try to send.
func (s Sender) Forgeries() []Forgery {
	own, foreign := s.MAC, net.HardwareAddr{2, 0, 0, 0, 0, 0x99}
	const other4, other6, otherLocal = "172.31.28.18", "2406:da1e:c4:ed01::b", "fe80::99"
	const gateway4, gateway6, peer4, peer6 = "172.31.16.1", "2406:da1e:c4:ed01::1", "172.31.16.50", "2406:da1e:c4:ed01::50"
	options := []byte{58, 0, 5, 2, 0, 0, 1, 0} // a router alert, and ICMPv6 behind it
	v6 := func(source string, next, hops byte, parts ...[]byte) []byte {
		return frame(own, typeIPv6, append([][]byte{header6(source, next, hops)}, parts...)...)
	}
	return []Forgery{
		{"IPv4", IPv4Frame(own, s.IPv4), true},
		{PermittedForgery, IPv4Frame(own, s.Permitted), true},
		{"IPv4 of another pod", IPv4Frame(own, other4), false},
		{"IPv4 without an address, e.g. DHCP", IPv4Frame(own, "0.0.0.0"), false},
		{"IPv4, foreign MAC", IPv4Frame(foreign, s.IPv4), false},
		{"ARP", frame(own, typeARP, arp(own, s.IPv4, peer4)), true},
		{"ARP of another pod", frame(own, typeARP, arp(own, other4, peer4)), false},
		{"ARP of the gateway", frame(own, typeARP, arp(own, gateway4, gateway4)), false},
		{"ARP, foreign MAC inside", frame(own, typeARP, arp(foreign, s.IPv4, peer4)), false},
		{"ARP with addresses of another length", frame(own, typeARP, []byte{0, 1, 8, 0, 8, 4}, arp(own, s.IPv4, peer4)[6:]), false},
		{"ARP probe for the own address", frame(own, typeARP, arp(own, "0.0.0.0", s.IPv4)), true},
		{"ARP probe for another address", frame(own, typeARP, arp(own, "0.0.0.0", other4)), false},
		{"RARP", frame(own, 0x8035, arp(own, s.IPv4, peer4)), false},
		{"IPv6", v6(s.IPv6, 59, 64), true},
		{"IPv6 of another pod", v6(other6, 59, 64), false},
		{"IPv6, link-local of another pod", v6(otherLocal, 59, 64), false},
		{"IPv6 without address", v6("::", 59, 64), false},
		{"neighbor solicitation", v6(s.IPv6, 58, 255, neighbor(135, peer6)), true},
		{"DAD of the own address", v6("::", 58, 255, neighbor(135, s.IPv6)), true},
		{"DAD of another address", v6("::", 58, 255, neighbor(135, peer6)), false},
		{"neighbor advertisement", v6(s.IPv6, 58, 255, neighbor(136, s.IPv6)), true},
		{"neighbor advertisement of the gateway", v6(s.IPv6, 58, 255, neighbor(136, gateway6)), false},
		{"the same behind options", v6(s.IPv6, 0, 255, options, neighbor(136, gateway6)), false},
		{"the same in a fragment", v6(s.IPv6, 44, 255, []byte{58, 0, 0, 0, 0, 0, 0, 1}, neighbor(136, gateway6)), false},
		{"router advertisement", v6(s.IPv6, 58, 255, neighbor(134, s.IPv6)), false},
		{"redirect", v6(s.IPv6, 58, 255, neighbor(137, s.IPv6)), false},
		{"MLD report without address", v6("::", 0, 1, options, neighbor(143, "::")), true},
		{"echo without address behind options", v6("::", 0, 1, options, neighbor(128, "::")), false},
		{"VLAN", frame(own, 0x8100, []byte{0, 7, 8, 0}, header4(s.IPv4)), false},
		{"another protocol", frame(own, 0x88cc, make([]byte, 50)), false},
	}
}

// IPv4Frame is an IPv4 packet from an address to all.
func IPv4Frame(mac net.HardwareAddr, source string) []byte {
	return frame(mac, typeIPv4, header4(source))
}

func frame(mac net.HardwareAddr, etherType uint16, payload ...[]byte) []byte {
	f := append([]byte{255, 255, 255, 255, 255, 255}, mac...)
	return append(binary.BigEndian.AppendUint16(f, etherType), slices.Concat(payload...)...)
}

func ip4(s string) []byte { return net.ParseIP(s).To4() }
func ip6(s string) []byte { return net.ParseIP(s).To16() }

func header4(source string) []byte {
	return slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0}, ip4(source), ip4("255.255.255.255"))
}

func header6(source string, next, hops byte) []byte {
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, 64, next, hops}, ip6(source), ip6("ff02::1"))
}

func arp(mac net.HardwareAddr, source, target string) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, []byte(mac), ip4(source), make([]byte, 6), ip4(target))
}

// neighbor is a message of neighbor discovery about a target.
func neighbor(kind byte, target string) []byte {
	return slices.Concat([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, ip6(target))
}
