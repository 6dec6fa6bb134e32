package flows

import (
	"encoding/binary"
	"net/netip"
	"time"
	"unsafe"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// These types are those of bpf/flows.c. They have no implicit padding.

type connection struct {
	Local, Remote         [16]byte // IPv4 is IPv4-mapped
	LocalPort, RemotePort [2]byte  // in network byte order
	NIC                   uint32
	Protocol              uint8
	Zero                  [7]uint8
}

type traffic struct{ Packets, Bytes uint64 }

type state struct {
	First, Answered, Last   uint64 // CLOCK_MONOTONIC, in ns; Answered is 1 in an opening with an answer
	Count                   [2]traffic
	Start, End              [2]uint32
	Retransmits, RTT, Ended uint32
	Opener, Reported        uint8
	Type, Code              uint8
	Service                 endpoint
	Zero                    uint32
}

type endpoint struct {
	Addr [16]byte
	Port [2]byte
	Zero uint16
}

// record is struct event: a connection that ended or was refused.
type record struct {
	Time uint64
	connection
	state
	Kind, Flags uint32
}

// opening is a connection that opened.
type opening struct {
	Time uint64
	connection
	Service                      endpoint
	Opener, Answered, Type, Code uint8
	Flags, Zero                  uint32
}

// Indexes of state.Count, and values of state.Opener.
const out, in = 0, 1

const (
	recordSize  = int(unsafe.Sizeof(record{}))
	openingSize = int(unsafe.Sizeof(opening{}))
)

// decode reads a record of the ring buffer, whose size tells the kind. ok is false for one of another layout.
func decode(raw []byte) (r record, ok bool) {
	switch len(raw) {
	case recordSize:
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordSize), raw)
		ok = r.Kind == uint32(flow.Closed) || r.Kind == uint32(flow.Refused)
	case openingSize:
		var o opening
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&o)), openingSize), raw)
		r.Time, r.connection, r.Kind, r.Flags = o.Time, o.connection, uint32(flow.Opened), o.Flags
		r.First, r.Answered, r.Opener, r.Type, r.Code, r.Service = o.Time, uint64(o.Answered), o.Opener, o.Type, o.Code, o.Service
		ok = true
	}
	return r, ok && r.Opener <= in
}

func addrPort(addr [16]byte, port [2]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), binary.BigEndian.Uint16(port[:]))
}

// event returns the event of a record at a network interface. booted is the wall-clock time of CLOCK_MONOTONIC 0.
func (r *record) event(at *nic, booted time.Time) flow.Event {
	local, remote := addrPort(r.Local, r.LocalPort), addrPort(r.Remote, r.RemotePort)
	e := flow.Event{
		Time: booted.Add(time.Duration(r.Time)), Kind: flow.Kind(r.Kind), Pod: at.pod.Name, UID: at.pod.UID, Interface: at.name,
		Direction: policy.Egress, Protocol: service.Protocol(r.Protocol), Flags: flow.TCPFlags(r.Flags),
	}
	if e.Protocol == flow.ICMPv4 || e.Protocol == flow.ICMPv6 {
		local, remote = netip.AddrPortFrom(local.Addr(), 0), netip.AddrPortFrom(remote.Addr(), 0)
		e.ICMPType, e.ICMPCode = r.Type, r.Code
	}
	e.Source, e.Destination = local, remote
	sent, received := r.Count[out], r.Count[in]
	if r.Opener == in {
		e.Direction = policy.Ingress
		e.Source, e.Destination = remote, local
		sent, received = received, sent
	}
	if r.Service != (endpoint{}) {
		e.Service = addrPort(r.Service.Addr, r.Service.Port)
	}
	if e.Kind == flow.Closed {
		e.Ended = flow.Counters{
			Sent: flow.Traffic(sent), Received: flow.Traffic(received), Duration: since(r.Last, r.First), Retransmits: r.Retransmits,
			RTT: time.Duration(r.RTT) * time.Microsecond,
		}
		if e.Ended.RTT == 0 && r.Answered != 0 {
			e.Ended.RTT = since(r.Answered, r.First)
		}
	}
	return e
}

// since returns the time between two points. The kernel's coarse clock is some milliseconds late, so a difference may be
// negative.
func since(later, earlier uint64) time.Duration { return max(time.Duration(later-earlier), 0) }

// unproven reports whether the packet filters may drop what opened the connection.
func (r *record) unproven() bool {
	return flow.Kind(r.Kind) == flow.Opened && r.Opener == in && r.Answered == 0
}
