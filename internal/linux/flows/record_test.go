package flows

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func raw(r record) []byte {
	b := make([]byte, recordSize)
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(&r)), recordSize))
	return b
}

// incoming is the end of a TCP connection from 10.6.0.2:40000 to the pod at 10.6.0.3:80.
func incoming() record {
	mapped := func(a string) [16]byte { return netip.MustParseAddr(a).As16() }
	r := record{Time: 5e9, Kind: uint32(flow.Closed), Flags: 17}
	r.Local, r.Remote, r.LocalPort, r.RemotePort = mapped("10.6.0.3"), mapped("10.6.0.2"), [2]byte{0, 80}, [2]byte{0x9c, 0x40}
	r.NIC, r.Protocol, r.Opener, r.First, r.Answered, r.Last = 7, 6, in, 2e9, 2e9+300, 5e9
	r.Count = [2]traffic{{Packets: 4, Bytes: 500}, {Packets: 5, Bytes: 100}}
	r.Retransmits, r.RTT = 2, 250
	return r
}

var theNIC = &nic{name: "eth0", space: &space{pod: Pod{Name: lease.PodKey{Namespace: "default", Name: "web"}, UID: "u1"}}}

func TestSourceIsWhoOpened(t *testing.T) {
	r, ok := decode(raw(incoming()))
	if !ok {
		t.Fatal("the record is refused")
	}
	booted := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	want := flow.Event{
		Time: booted.Add(5 * time.Second), Kind: flow.Closed, Pod: theNIC.pod.Name, UID: "u1", Interface: "eth0", Direction: policy.Ingress,
		Protocol: service.TCP, Source: netip.MustParseAddrPort("10.6.0.2:40000"), Destination: netip.MustParseAddrPort("10.6.0.3:80"), Flags: 17,
		Ended: flow.Counters{
			Sent: flow.Traffic{Packets: 5, Bytes: 100}, Received: flow.Traffic{Packets: 4, Bytes: 500},
			Duration: 3 * time.Second, Retransmits: 2, RTT: 250 * time.Microsecond,
		},
	}
	if diff := cmp.Diff(want, r.event(theNIC, booted), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

func rawOpening(o opening) []byte {
	b := make([]byte, openingSize)
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(&o)), openingSize))
	return b
}

// opens is the start of incoming.
func opens(answered uint8) opening {
	r := incoming()
	return opening{Time: r.First, connection: r.connection, Opener: in, Answered: answered, Flags: 2, Service: endpoint{Addr: netip.MustParseAddr("10.96.0.1").As16(), Port: [2]byte{1, 187}}}
}

func TestOpeningIsRead(t *testing.T) {
	booted := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	want := flow.Event{
		Time: booted.Add(2 * time.Second), Kind: flow.Opened, Pod: theNIC.pod.Name, UID: "u1", Interface: "eth0", Direction: policy.Ingress, Protocol: service.TCP,
		Source: netip.MustParseAddrPort("10.6.0.2:40000"), Destination: netip.MustParseAddrPort("10.6.0.3:80"), Service: netip.MustParseAddrPort("10.96.0.1:443"), Flags: 2,
	}
	for _, answered := range []uint8{0, 1} {
		r, ok := decode(rawOpening(opens(answered)))
		if diff := cmp.Diff(want, r.event(theNIC, booted), cmpopts.EquateComparable(netip.AddrPort{})); !ok || diff != "" || r.unproven() != (answered == 0) {
			t.Errorf("ok %v, unproven %v, %s", ok, r.unproven(), diff)
		}
	}
}

func TestForeignRecordsAreRefused(t *testing.T) {
	kind, opener, opened := incoming(), incoming(), opens(1)
	kind.Kind, opener.Opener, opened.Opener = uint32(flow.Denied), 2, 2
	for name, b := range map[string][]byte{"short": raw(incoming())[1:], "long": append(raw(incoming()), 0), "kind": raw(kind), "opener": raw(opener), "opener of an opening": rawOpening(opened), "none": nil} {
		if r, ok := decode(b); ok {
			t.Errorf("%s: got %+v", name, r)
		}
	}
}

// message is that of nflog about a packet.
func message(family byte, prefix string, payload []byte) []byte {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attrPrefix, Data: append([]byte(prefix), 0)}, {Type: attrPayload, Data: payload}})
	if err != nil {
		panic(err)
	}
	return append([]byte{family, 0, 0, 0}, attributes...)
}

// syn is an IPv4 packet from 10.6.0.2:40000 to 10.6.0.3:80.
var syn = append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 6, 0, 2, 10, 6, 0, 3}, 0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0)

func TestDroppedPacketsAreRead(t *testing.T) {
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 12), unix.ETH_P_IP), syn...)
	for _, c := range []struct {
		name    string
		message []byte
		reason  flow.Reason
	}{
		{"policy", message(unix.NFPROTO_IPV4, "spiderpool policy egress eth0", syn), flow.ByPolicy},
		{"frame", message(unix.NFPROTO_NETDEV, "spiderpool anti-spoofing egress eth0", frame), flow.BySpoofing},
	} {
		_, e, ok := readDenial(c.message)
		want := flow.Event{
			Kind: flow.Denied, Reason: c.reason, Interface: "eth0", Direction: policy.Egress, Protocol: service.TCP, Flags: 2,
			Source: netip.MustParseAddrPort("10.6.0.2:40000"), Destination: netip.MustParseAddrPort("10.6.0.3:80"),
		}
		if diff := cmp.Diff(want, e, cmpopts.EquateComparable(netip.AddrPort{})); !ok || diff != "" {
			t.Errorf("%s: ok %v, %s", c.name, ok, diff)
		}
	}
	for name, m := range map[string][]byte{
		"another rule": message(unix.NFPROTO_IPV4, "mine", syn), "no packet": message(unix.NFPROTO_IPV4, "spiderpool policy egress eth0", nil), "empty": nil,
	} {
		if _, e, ok := readDenial(m); ok {
			t.Errorf("%s: got %+v", name, e)
		}
	}
}

// FuzzRecord reads anything as a record of the ring buffer.
func FuzzRecord(f *testing.F) {
	f.Add(raw(incoming()))
	f.Add(rawOpening(opens(0)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := decode(b)
		if !ok {
			return
		}
		e := r.event(theNIC, time.Time{})
		if e.Ended.Duration < 0 || e.Ended.RTT < 0 || e.Source.Addr().Is4In6() || e.Kind.String() == "" || e.Direction.String() == "" {
			t.Errorf("event %+v", e)
		}
	})
}

// FuzzDenial reads anything as a message of nflog. Senders choose the packet.
func FuzzDenial(f *testing.F) {
	f.Add(message(unix.NFPROTO_IPV4, "spiderpool policy ingress eth0", syn))
	f.Add(message(unix.NFPROTO_NETDEV, "spiderpool anti-spoofing egress net1 veth0", append(make([]byte, 14), syn...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		met, e, ok := readDenial(b)
		if ok && (!e.Source.IsValid() || !e.Destination.IsValid() || met.Reason == flow.NoReason || e.Kind != flow.Denied) {
			t.Errorf("event %+v", e)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	one := raw(incoming())
	for b.Loop() {
		r, ok := decode(one)
		if !ok || !r.event(theNIC, time.Time{}).Source.IsValid() {
			b.Fatal("no event")
		}
	}
}
