package bpf

import (
	"encoding/binary"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/service"
)

// The types below have the memory layout of those in bpf/service.c.

// endpoint is an address and a port. IPv4 is IPv4-mapped, and the port is big-endian.
type endpoint struct {
	Addr [16]byte
	Port [2]byte
	Zero [2]byte
}

type frontendKey struct {
	Addr     [16]byte
	Port     [2]byte
	Protocol uint8
	Zero     uint8
}

type frontend struct {
	Set     uint32
	Count   uint32
	Timeout uint32
	Flags   uint32
}

type slot struct {
	Set   uint32
	Index uint32
}

type member struct {
	Set     uint32
	Backend endpoint
}

func bigEndian(port uint16) (b [2]byte) {
	binary.BigEndian.PutUint16(b[:], port)
	return b
}

func toEndpoint(a netip.AddrPort) endpoint {
	return endpoint{Addr: a.Addr().As16(), Port: bigEndian(a.Port())}
}

func toKey(k service.FrontendKey) frontendKey {
	return frontendKey{Addr: k.Addr.As16(), Port: bigEndian(k.Port), Protocol: uint8(k.Protocol)}
}

func (k frontendKey) key() service.FrontendKey {
	return service.FrontendKey{
		Addr:     netip.AddrFrom16(k.Addr).Unmap(),
		Port:     binary.BigEndian.Uint16(k.Port[:]),
		Protocol: service.Protocol(k.Protocol),
	}
}

func toSlot(s service.Slot) slot { return slot{uint32(s.ID), s.Index} }

func toMember(m service.Member) member { return member{uint32(m.ID), toEndpoint(m.Backend)} }
