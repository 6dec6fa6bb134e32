//go:build kernel

package packetfilter

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func (n *network) openPacketSocket(t testing.TB) {
	t.Helper()
	n.podMAC = n.pod.Link(n.dev).Attrs().HardwareAddr
	err := n.pod.Do(func() (err error) {
		n.framesJudged = n.node != nil || TryPacketSockets() == nil // a node judges forwarded packets, whoever sends them
		n.packet, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(n.packet) })
}

// sendFrame sends an Ethernet frame from the pod. The protocol number that the kernel notes is the frame's own.
func (n *network) sendFrame(t testing.TB, frame []byte) {
	t.Helper()
	n.sendFrameAs(t, frame, bigEndian.Uint16(frame[12:]))
}

func (n *network) sendFrameAs(t testing.TB, frame []byte, protocol uint16) {
	t.Helper()
	to := &unix.SockaddrLinklayer{Ifindex: n.pod.Link(n.dev).Attrs().Index, Protocol: protocol<<8 | protocol>>8}
	// ENOBUFS: the filter dropped the frame.
	if err := unix.Sendto(n.packet, frame, 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
		t.Fatal(err)
	}
}

// frame returns the probe as an Ethernet frame.
func (p probe) frame(n *network) []byte {
	from, to := p.ends()
	body := p.bytes()
	link := slices.Concat([]byte(n.nextHop), []byte(n.podMAC))
	if p.peer.Is4() {
		return slices.Concat(link, []byte{8, 0}, header4(byte(p.protocol), from, to, len(body)), body)
	}
	protocol := byte(p.protocol)
	if p.protocol == icmp {
		protocol = unix.IPPROTO_ICMPV6
		pseudo := slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, protocol}, body)
		body = slices.Clone(body)
		bigEndian.PutUint16(body[2:], checksum(pseudo))
	}
	return slices.Concat(link, []byte{0x86, 0xdd}, header6(protocol, from, to, len(body)), body)
}

func header4(protocol byte, from, to netip.Addr, payload int) []byte {
	h := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}, from.AsSlice(), to.AsSlice())
	bigEndian.PutUint16(h[2:], uint16(20+payload))
	bigEndian.PutUint16(h[10:], checksum(h))
	return h
}

func header6(next byte, from, to netip.Addr, payload int) []byte {
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(payload), next, 64}, from.AsSlice(), to.AsSlice())
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// TestPacketSocketObeysEgressPolicy sends frames that are no packets of the IP stack. All captured frames are wanted.
func TestPacketSocketObeysEgressPolicy(t *testing.T) {
	n := newNetwork(t)
	if !n.framesJudged {
		t.Skip("this kernel cannot judge packet sockets; TryPacketSockets reports it")
	}
	f := n.open(t)
	f.must(t, open, allowing("10.6.0.3/32", service.UDP, 80))
	pod, friend, foe := addrOf(podAddrs[0]), addrOf("10.6.0.3"), addrOf("10.6.0.4")
	pod6, foe6 := addrOf(podAddrs[1]), addrOf("fd00:6::4")
	udp := []byte{0x4e, 0x20, 0, 80, 0, 8, 0, 0}
	link := slices.Concat([]byte(n.nextHop), []byte(n.podMAC))
	v4 := func(header []byte) []byte { return slices.Concat(link, []byte{8, 0}, header, udp) }
	changed := func(header []byte, at int, value byte) []byte {
		header = slices.Clone(header)
		header[at] = value
		return header
	}
	good := header4(17, pod, friend, 8)
	withOptions := slices.Concat(changed(good, 0, 0x46), []byte{1, 1, 1, 0})
	frames := []struct {
		name     string
		frame    []byte
		protocol uint16
		passes   bool
	}{
		{"allowed UDP", v4(good), unix.ETH_P_IP, true},
		{"to another peer", v4(header4(17, pod, foe, 8)), unix.ETH_P_IP, false},
		{"as another protocol", v4(header4(17, pod, foe, 8)), unix.ETH_P_ARP, false},
		{"as IPv6", v4(header4(17, pod, foe, 8)), unix.ETH_P_IPV6, false},
		{"to the node", v4(header4(6, pod, addrOf(nodeAddrs[0]), 8)), unix.ETH_P_IP, true},
		{"with options before the port", v4(withOptions), unix.ETH_P_IP, false},
		{"a later fragment", v4(changed(good, 7, 1)), unix.ETH_P_IP, false},
		{"UDP in a VLAN", slices.Concat(link, []byte{0x81, 0, 0, 7, 8, 0}, good, udp), unix.ETH_P_8021Q, false},
		{"another EtherType", slices.Concat(link, []byte{0x88, 0xcc}, make([]byte, 60)), 0x88cc, false},
		{"IPv6 behind an extension", slices.Concat(link, []byte{0x86, 0xdd}, header6(0, pod6, foe6, 16), []byte{17, 0, 5, 2, 0, 0, 1, 0}, udp), unix.ETH_P_IPV6, false},
		{"ARP", slices.Concat(link, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, n.podMAC, pod.AsSlice(), make([]byte, 6), foe.AsSlice()), unix.ETH_P_ARP, true},
		{"cut", v4(good)[:30], unix.ETH_P_IP, false},
	}
	for _, mode := range []string{"plain", "bypass"} {
		if mode == "bypass" {
			if err := unix.SetsockoptInt(n.packet, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
				t.Fatal(err)
			}
		}
		for _, it := range frames {
			stop := n.peers.Capture("eth0", func(frame []byte) bool {
				return len(frame) >= len(it.frame) && slices.Equal(frame[:len(it.frame)], it.frame)
			})
			protocol := it.protocol
			if mode == "bypass" && it.passes {
				protocol = 0 // unset, for the kernel to find. Otherwise, it does not note where the frame begins, and no rule matches.
			}
			n.sendFrameAs(t, it.frame, protocol)
			if got := stop(); (got > 0) != it.passes {
				t.Errorf("%s, %s: %d frames pass, want %v", it.name, mode, got, it.passes)
			}
		}
	}
	drops := n.dropsOf(t, f, policy.Egress)
	if drops < 16 {
		t.Errorf("%d dropped frames are counted, want at least 16", drops)
	}
}

func addrOf(text string) netip.Addr { return netip.MustParseAddr(text) }

// dropsOf returns a counter of eth0.
func (n *network) dropsOf(t testing.TB, f *Filter, d policy.Direction) uint64 {
	t.Helper()
	all, err := f.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Direction == d && one.Interface == "eth0" {
			return one.Packets
		}
	}
	t.Fatalf("no counter for %s in %v", d, all)
	return 0
}

// TestPacketSocketWaitsForInterface applies a policy before the interface exists, as at an ADD of the IPAM plugin.
func TestPacketSocketWaitsForInterface(t *testing.T) {
	n := newNetwork(t)
	if !n.framesJudged {
		t.Skip("this kernel cannot judge packet sockets; TryPacketSockets reports it")
	}
	if err := n.pod.NL.LinkSetDown(n.pod.Link("eth0")); err != nil {
		t.Fatal(err)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := n.pod.NL.LinkSetName(n.pod.Link(from), to); err != nil {
			t.Fatal(err)
		}
	}
	rename("eth0", "later")
	f := n.open(t)
	f.must(t, closed, closed)
	rename("later", "eth0")
	n.pod.Up("eth0")
	n.pod.Addr("eth0", prefixOf(podAddrs[1])) // the kernel removes it with the link's state
	for _, node := range nodeAddrs {
		n.pod.Route("default", node, "eth0")
	}
	f.must(t, closed, closed)
	n.compare(t, clusterWith(closed, closed), "with the interface")
}
