//go:build kernel

package packetfilter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

var (
	podAddrs  = []string{"10.6.0.1", "fd00:6::1"}
	nodeAddrs = []string{"10.6.0.2", "fd00:6::2"}
	peerAddrs = []string{"10.6.0.3", "10.6.0.4", "10.6.0.9", "10.7.0.1", "10.255.255.254", "192.0.2.1", "fd00:6::3", "fd00:6::4", "fd00:7::1", "2001:db8::1"}
	somePorts = []uint16{1, 79, 80, 81, 90, 100, 65535}
	// icmp stands for ICMPv6 between IPv6 addresses.
	icmp      = service.Protocol(unix.IPPROTO_ICMP)
	protocols = []service.Protocol{icmp, service.TCP, service.UDP, service.SCTP}
)

// network is a pod on a wire, with all its peers on one machine. Packets are raw, and raw sockets receive them behind the
// hooks of the filter, so no port needs a listener, and no lost packet a timeout.
type network struct {
	pod, peers *linuxtest.Machine
	ns         *linux.Namespace
	sockets    map[socketKey]int
	number     uint16 // of the last packet
	// framesJudged means that the kernel can judge packet sockets.
	framesJudged bool
	packet       int // a packet socket of the pod
	podMAC       net.HardwareAddr
	nextHop      net.HardwareAddr
	dev          string             // of the pod
	node         *linuxtest.Machine // nil on a wire
}

type socketKey struct {
	machine  *linuxtest.Machine
	protocol service.Protocol
	is4      bool
}

// newNetwork connects the pod's eth0 and its peers with a wire.
func newNetwork(t testing.TB) *network {
	t.Helper()
	return newNetworkOn(t, "eth0")
}

// newNetworkOn is newNetwork with another interface of the pod.
func newNetworkOn(t testing.TB, dev string) *network {
	t.Helper()
	n := &network{pod: linuxtest.NewMachine(t, "pod"), peers: linuxtest.NewMachine(t, "peers"), dev: dev, sockets: map[socketKey]int{}}
	linuxtest.Wire(n.pod, dev, n.peers, "eth0")
	for _, a := range podAddrs {
		n.pod.Addr(dev, prefixOf(a))
	}
	for _, a := range slices.Concat(nodeAddrs, peerAddrs) {
		n.peers.Addr("eth0", prefixOf(a))
	}
	n.pod.Route("default", nodeAddrs[0], dev)
	n.pod.Route("default", nodeAddrs[1], dev)
	n.nextHop = n.peers.Link("eth0").Attrs().HardwareAddr
	n.begin(t, n.pod)
	return n
}

// newForwardedNetwork has a node between the pod and its peers.
func newForwardedNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{pod: linuxtest.NewMachine(t, "pod"), peers: linuxtest.NewMachine(t, "peers"), dev: "veth0", sockets: map[socketKey]int{}}
	n.node = linuxtest.NewMachine(t, "node")
	linuxtest.Wire(n.pod, "veth0", n.node, pairA)
	linuxtest.Wire(n.node, "eth0", n.peers, "eth0")
	n.node.Sysctl("net/ipv4/ip_forward", "1")
	n.node.Sysctl("net/ipv6/conf/all/forwarding", "1")
	n.node.Addr("eth0", "10.99.0.1/24", "fd00:99::1/64")
	n.peers.Addr("eth0", "10.99.0.2/24", "fd00:99::2/64")
	n.peers.Route("default", "10.99.0.1", "eth0")
	n.peers.Route("default", "fd00:99::1", "eth0")
	for _, a := range slices.Concat(nodeAddrs, peerAddrs) {
		n.peers.Addr("eth0", single(a))
		n.node.Route(single(a), hopOf(a, "10.99.0.2", "fd00:99::2"), "eth0")
	}
	for _, a := range podAddrs {
		hop := hopOf(a, "10.98.0.1", "fd00:98::1")
		n.node.Addr(pairA, single(hop))
		n.node.Route(single(a), "", pairA)
		n.pod.Addr("veth0", single(a))
		defaultRoute(t, n.pod, hop, "veth0")
	}
	n.nextHop = n.node.Link(pairA).Attrs().HardwareAddr
	n.begin(t, n.node)
	return n
}

func hopOf(addr, v4, v6 string) string {
	if strings.Contains(addr, ":") {
		return v6
	}
	return v4
}

func single(addr string) string { return addr + hopOf(addr, "/32", "/128") }

// begin opens the namespace with the filter, and all sockets.
func (n *network) begin(t testing.TB, filtered *linuxtest.Machine) {
	t.Helper()
	var err error
	if n.ns, err = linux.Open(filtered.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.ns.Close)
	for _, m := range []*linuxtest.Machine{n.pod, n.peers} {
		for _, protocol := range protocols {
			for _, is4 := range []bool{true, false} {
				fd := rawSocket(t, m, protocol, is4)
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
					t.Fatal(err)
				}
				n.sockets[socketKey{m, protocol, is4}] = fd
			}
		}
	}
	n.openPacketSocket(t)
	n.warmUp(t)
}

func prefixOf(addr string) string {
	if strings.Contains(addr, ":") {
		return addr + "/64"
	}
	return addr + "/24"
}

func rawSocket(t testing.TB, m *linuxtest.Machine, protocol service.Protocol, is4 bool) (fd int) {
	t.Helper()
	family, number := unix.AF_INET, int(protocol)
	if !is4 {
		family = unix.AF_INET6
		if protocol == icmp {
			number = unix.IPPROTO_ICMPV6
		}
	}
	err := m.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, number)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// probe is the first packet of a connection.
type probe struct {
	egress bool
	// framed means that a packet socket sends it.
	framed   bool
	peer     netip.Addr
	protocol service.Protocol
	port     uint16
	number   uint16
}

func (p probe) String() string {
	way := "from"
	switch {
	case p.framed:
		way = "by packet socket to"
	case p.egress:
		way = "to"
	}
	return fmt.Sprintf("%s %d %s %s", p.protocol, p.port, way, p.peer)
}

// firstNumber is above most ports, because the number of a packet is its source port.
const firstNumber = 20000

// next returns the probe with a number of its own.
func (n *network) next(egress bool, peer netip.Addr, protocol service.Protocol, port uint16) probe {
	if n.number < firstNumber || n.number == 60000 {
		n.number = firstNumber
	}
	n.number++
	return probe{egress: egress, peer: peer, protocol: protocol, port: port, number: n.number}
}

func (p probe) pod() netip.Addr {
	if p.peer.Is4() {
		return netip.MustParseAddr(podAddrs[0])
	}
	return netip.MustParseAddr(podAddrs[1])
}

// ends returns the addresses of source and destination.
func (p probe) ends() (from, to netip.Addr) {
	if p.egress {
		return p.pod(), p.peer
	}
	return p.peer, p.pod()
}

// bytes returns the transport header.
func (p probe) bytes() []byte {
	number, port := []byte{byte(p.number >> 8), byte(p.number)}, []byte{byte(p.port >> 8), byte(p.port)}
	switch p.protocol {
	case service.TCP:
		return slices.Concat(number, port, make([]byte, 8), []byte{5 << 4, 2 /* SYN */, 0xff, 0xff, 0, 0, 0, 0})
	case service.UDP:
		return slices.Concat(number, port, []byte{0, 8, 0, 0})
	case service.SCTP:
		return slices.Concat(number, port, make([]byte, 8), []byte{1 /* INIT */, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1})
	}
	kind := byte(icmp4Echo)
	if !p.peer.Is4() {
		kind = icmp6Echo
	}
	header := slices.Concat([]byte{kind, 0, 0, 0}, number, []byte{0, 0})
	if p.peer.Is4() {
		sum := ^(uint32(kind)<<8 + uint32(p.number)) // without a carry: the number is below 0xf800
		header[2], header[3] = byte(sum>>8), byte(sum)
	}
	return header
}

// Types of echo requests (RFC 792, RFC 4443).
const (
	icmp4Echo = 8
	icmp6Echo = 128
)

// numberIn returns the number of a received packet, 0 for other packets.
func numberIn(packet []byte, protocol service.Protocol, is4 bool) uint16 {
	if is4 { // a raw IPv4 socket receives the IP header, too
		packet = packet[int(packet[0]&0xf)*4:]
	}
	at := 0
	if protocol == icmp {
		if packet[0] != icmp4Echo && packet[0] != icmp6Echo {
			return 0
		}
		at = 4
	}
	return bigEndian.Uint16(packet[at:])
}

func (n *network) send(t testing.TB, p probe) {
	t.Helper()
	if p.framed {
		n.sendFrame(t, p.frame(n))
		return
	}
	machine := n.peers
	if p.egress {
		machine = n.pod
	}
	from, to := p.ends()
	sender := rawSocketOnce(machine, p.protocol, from)
	if sender.err == nil {
		defer unix.Close(sender.fd)
		var destination unix.Sockaddr = &unix.SockaddrInet4{Addr: as4(to)}
		if !to.Is4() {
			destination = &unix.SockaddrInet6{Addr: to.As16()}
		}
		sender.err = unix.Sendto(sender.fd, p.bytes(), 0, destination)
	}
	if sender.err != nil && !(p.egress && isDrop(sender.err)) {
		t.Fatalf("%v: %v", p, sender.err)
	}
}

// isDrop reports whether a packet was dropped on its way out: by the stack, or by the interface. Only raw IPv6 sockets and
// those with IP_RECVERR see the latter.
func isDrop(err error) bool { return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOBUFS) }

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		return a.As4()
	}
	return b
}

type sender struct {
	fd  int
	err error
}

// rawSocketOnce returns a socket that sends from an address.
func rawSocketOnce(m *linuxtest.Machine, protocol service.Protocol, from netip.Addr) (s sender) {
	s.err = m.Do(func() (err error) {
		family, number := unix.AF_INET, int(protocol)
		var source unix.Sockaddr = &unix.SockaddrInet4{Addr: as4(from)}
		if !from.Is4() {
			family, source = unix.AF_INET6, &unix.SockaddrInet6{Addr: from.As16()}
			if protocol == icmp {
				number = unix.IPPROTO_ICMPV6
			}
		}
		if s.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, number); err != nil {
			return err
		}
		return unix.Bind(s.fd, source)
	})
	return s
}

// arrived sends the probes and returns those that arrive: it waits for the wanted ones, and then for one packet behind
// all others in each socket.
func (n *network) arrived(t testing.TB, probes []probe, wanted map[uint16]bool) map[uint16]bool {
	t.Helper()
	fences := map[socketKey]uint16{}
	for _, p := range probes {
		n.send(t, p)
	}
	for _, addr := range nodeAddrs {
		for _, protocol := range protocols {
			for _, egress := range []bool{false, true} {
				p := n.next(egress, netip.MustParseAddr(addr), protocol, 1)
				n.send(t, p)
				fences[n.receiver(p)] = p.number
			}
		}
	}
	got := map[uint16]bool{}
	missing := map[socketKey]map[uint16]bool{}
	for key, number := range fences {
		missing[key] = map[uint16]bool{number: true}
	}
	for _, p := range probes {
		if wanted[p.number] {
			missing[n.receiver(p)][p.number] = true
		}
	}
	for key, numbers := range missing {
		n.receive(t, key, numbers, got)
	}
	for key, number := range fences {
		if !got[number] {
			t.Fatalf("a packet of the node with %s to %s does not arrive (IPv4 %v)", key.protocol, key.machine.Name, key.is4)
		}
	}
	return got
}

func (n *network) receiver(p probe) socketKey {
	machine := n.pod
	if p.egress {
		machine = n.peers
	}
	return socketKey{machine, p.protocol, p.peer.Is4()}
}

// receive reads a socket until it has the missing numbers, or until nothing comes.
func (n *network) receive(t testing.TB, key socketKey, missing, got map[uint16]bool) {
	t.Helper()
	const patience = 5 * time.Second
	fd, buffer := n.sockets[key], make([]byte, 2048)
	for len(missing) > 0 {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if ready, err := unix.Poll(polled, int(patience.Milliseconds())); err == nil && ready == 0 {
			return
		}
		size, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if number := numberIn(buffer[:size], key.protocol, key.is4); number >= firstNumber {
			got[number] = true
			delete(missing, number)
		}
	}
}

// warmUp resolves the neighbors: the kernel keeps few packets for an unresolved one.
func (n *network) warmUp(t testing.TB) {
	t.Helper()
	for _, addr := range peerAddrs {
		for _, egress := range []bool{false, true} {
			p := n.next(egress, netip.MustParseAddr(addr), icmp, 0)
			if !n.arrived(t, []probe{p}, map[uint16]bool{p.number: true})[p.number] {
				t.Fatalf("without a filter, %v does not arrive", p)
			}
		}
	}
}

// forget removes the connections of the pod, so that a number may return.
func (n *network) forget(t testing.TB) {
	t.Helper()
	for _, m := range []*linuxtest.Machine{n.pod, n.node} {
		if m == nil {
			continue
		}
		if err := m.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
			t.Fatal(err)
		}
	}
}

// tracksSCTP reports whether the kernel has CONFIG_NF_CT_PROTO_SCTP, like the kernels of distributions. Without it, all
// SCTP packets between two addresses are one connection.
func tracksSCTP() bool {
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed")
	return err == nil
}

// compare sends packets with all peers and ports both ways, and compares the arrivals with the verdicts of the policies.
func (n *network) compare(t testing.TB, c *policy.Cluster, what string) {
	t.Helper()
	n.forget(t)
	var probes []probe
	wanted := map[uint16]bool{}
	for _, addr := range slices.Concat(peerAddrs, nodeAddrs) {
		for _, protocol := range protocols {
			if protocol == service.SCTP && !tracksSCTP() {
				continue
			}
			for _, port := range somePorts {
				if protocol == icmp && port != 1 {
					continue // it has no ports
				}
				for way := range 3 {
					p := n.next(way > 0, netip.MustParseAddr(addr), protocol, port)
					p.framed = way == 2
					probes = append(probes, p)
					from, to := p.ends()
					v := c.Verdict(policy.Packet{From: from, To: to, Protocol: protocol, Port: port})
					decision := v.Ingress // that of the pod
					if p.egress {
						decision = v.Egress
					}
					if p.framed && !n.framesJudged || decision.Allowed() {
						wanted[p.number] = true
					}
				}
			}
		}
	}
	got := n.arrived(t, probes, wanted)
	for _, p := range probes {
		if got[p.number] != wanted[p.number] {
			t.Fatalf("%s: %v arrives: %v, want %v", what, p, got[p.number], wanted[p.number])
		}
	}
}
