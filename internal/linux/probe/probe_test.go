package probe

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

var (
	own    = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	theirs = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	none   netip.Addr
	four   = netip.MustParseAddr("10.1.0.5")
	six    = netip.MustParseAddr("fd00::5")
	other4 = netip.MustParseAddr("10.1.0.6")
	other6 = netip.MustParseAddr("fd00::6")
)

func must(t *testing.T) func(q question, err error) question {
	return func(q question, err error) question {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
}

func TestAnswers(t *testing.T) {
	advertisement := func(target netip.Addr, options ...ndp.Option) ethernet.Frame {
		f, err := ndpFrame(theirs, target, netip.IPv6LinkLocalAllNodes(), &ndp.NeighborAdvertisement{TargetAddress: target, Options: options})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	frame := func(q question) ethernet.Frame { return must(t)(q, nil).frame }
	probe4, ask4 := must(t)(arpQuestion(own, four, none)), must(t)(arpQuestion(own, four, other4))
	probe6, ask6 := must(t)(ndpQuestion(own, six, none)), must(t)(ndpQuestion(own, six, other6))
	routed := advertisement(six)
	routed.Payload[7]--
	for _, c := range []struct {
		name     string
		asked    question
		received ethernet.Frame
		want     net.HardwareAddr
	}{
		{"ARP of the holder", probe4, frame(must(t)(arpQuestion(theirs, other4, four))), theirs},
		{"ARP of the holder, to a question", ask4, frame(must(t)(arpQuestion(theirs, other4, four))), theirs},
		{"ARP of another host", probe4, frame(must(t)(arpQuestion(theirs, four, other4))), nil},
		{"ARP probe of another host", probe4, frame(must(t)(arpQuestion(theirs, four, none))), theirs},
		{"ARP probe, to a question", ask4, frame(must(t)(arpQuestion(theirs, four, none))), nil},
		{"ARP probe for another address", probe4, frame(must(t)(arpQuestion(theirs, other4, none))), nil},
		{"advertisement", probe6, advertisement(six), theirs},
		{"advertisement that names another interface", probe6,
			advertisement(six, &ndp.LinkLayerAddress{Direction: ndp.Target, Addr: net.HardwareAddr{2, 0, 0, 0, 0, 3}}), net.HardwareAddr{2, 0, 0, 0, 0, 3}},
		{"advertisement, to a question", ask6, advertisement(six), theirs},
		{"advertisement of another address", probe6, advertisement(other6), nil},
		{"advertisement through a router", probe6, routed, nil},
		{"duplicate address detection of another host", probe6, frame(must(t)(ndpQuestion(theirs, six, none))), theirs},
		{"duplicate address detection, to a question", ask6, frame(must(t)(ndpQuestion(theirs, six, none))), nil},
		{"solicitation of another host", probe6, frame(must(t)(ndpQuestion(theirs, six, other6))), nil},
		{"an IPv6 packet, to ARP", probe4, advertisement(six), nil},
	} {
		if got := c.asked.holder(c.received); !bytes.Equal(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestDADMessageFollowsRFC4862: RFC 4862, section 5.4.2, and
// RFC 4861, section 4.3.
func TestDADMessageFollowsRFC4862(t *testing.T) {
	q := must(t)(ndpQuestion(own, netip.MustParseAddr("fd00::1:2:a1b2:c3d4"), none))
	source, m := ndpMessage(q.frame.Payload)
	solicitation, ok := m.(*ndp.NeighborSolicitation)
	if !ok || source != netip.IPv6Unspecified() || len(solicitation.Options) != 0 {
		t.Errorf("from %s: %+v", source, m)
	}
	if to := netip.AddrFrom16([16]byte(q.frame.Payload[24:40])); to != netip.MustParseAddr("ff02::1:ffb2:c3d4") {
		t.Errorf("to %s", to)
	}
	if to := q.frame.Destination.String(); to != "33:33:ff:b2:c3:d4" {
		t.Errorf("to %s", to)
	}
	if !checksumHolds(q.frame.Payload) {
		t.Error("the checksum is wrong")
	}
}

// checksumHolds verifies RFC 8200, section 8.1.
func checksumHolds(packet []byte) bool {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	add(packet[8:40])
	add([]byte{packet[4], packet[5], 0, protocolICMPv6})
	add(packet[40:])
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

// FuzzAnswers checks that no frame crashes the parsers.
func FuzzAnswers(f *testing.F) {
	for _, q := range []func() (question, error){
		func() (question, error) { return arpQuestion(theirs, four, none) },
		func() (question, error) { return ndpQuestion(theirs, six, none) },
	} {
		seed, err := q()
		if err != nil {
			f.Fatal(err)
		}
		b, err := seed.frame.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var frame ethernet.Frame
		if frame.UnmarshalBinary(b) != nil {
			return
		}
		for _, q := range []question{must(t)(arpQuestion(own, four, none)), must(t)(ndpQuestion(own, six, none))} {
			q.holder(frame)
		}
	})
}
