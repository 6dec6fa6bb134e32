//go:build kernel

package flows

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/service"
)

func TestConnectionsSeenAtBothPods(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			n := newLAN(t, kind).observe(Options{Idle: time.Second})
			n.server.Serve(53)
			for _, a := range addresses {
				n.tcp(a.client, a.server)
				n.udp(a.server)
				n.echo(a.client, a.server)
				n.sctp(a.client, a.server)
			}
			if n.lost > 0 {
				t.Errorf("%d events are lost", n.lost)
			}
		})
	}
}

func (n *lan) tcp(client, server string) {
	n.t.Helper()
	const sent, received = 300_000, 7_000
	to := net.JoinHostPort(server, "8080")
	n.exchange(server, 8080, sent, received)
	for _, e := range pair(n.both(flow.Opened, service.TCP, to)) {
		if e.Source.Addr().String() != client || e.Flags != 2 || e.Service.IsValid() || time.Since(e.Time).Abs() > time.Minute {
			n.t.Errorf("opened: %s at %s", text(e), e.Time)
		}
	}
	for _, e := range pair(n.both(flow.Closed, service.TCP, to)) {
		if e.Ended.Sent.Bytes != sent || e.Ended.Received.Bytes != received || e.Flags&1 == 0 || e.Ended.RTT <= 0 || e.Ended.Duration <= 0 {
			n.t.Errorf("closed: %s", text(e))
		}
		if p := e.Ended; p.Sent.Packets < 5 || p.Received.Packets < 5 {
			n.t.Errorf("packets: %s", text(e))
		}
	}
}

func pair(a, b flow.Event) []flow.Event { return []flow.Event{a, b} }

func (n *lan) udp(server string) {
	n.t.Helper()
	to := net.JoinHostPort(server, "53")
	answer, err := n.client.Ask("udp", to, 5*time.Second)
	n.ok(err)
	n.both(flow.Opened, service.UDP, to)
	overhead := 28
	if netip.MustParseAddr(server).Is6() {
		overhead = 48
	}
	for _, e := range pair(n.both(flow.Closed, service.UDP, to)) {
		want := flow.Counters{
			Sent:     flow.Traffic{Packets: 1, Bytes: uint64(overhead + 1)},
			Received: flow.Traffic{Packets: 1, Bytes: uint64(overhead + len(answer))},
			Duration: e.Ended.Duration, RTT: e.Ended.RTT,
		}
		if e.Ended != want || e.Ended.RTT <= 0 {
			n.t.Errorf("closed: %s", text(e))
		}
	}
}

func (n *lan) echo(client, server string) {
	n.t.Helper()
	n.ping(client, server)
	protocol, request := flow.ICMPv4, uint8(8)
	if netip.MustParseAddr(server).Is6() {
		protocol, request = flow.ICMPv6, 128
	}
	for _, e := range pair(n.both(flow.Opened, protocol, netip.AddrPortFrom(netip.MustParseAddr(server), 0).String())) {
		if e.ICMPType != request || e.Source.Port() != 0 {
			n.t.Errorf("opened: %s", text(e))
		}
	}
	n.both(flow.Closed, protocol, netip.AddrPortFrom(netip.MustParseAddr(server), 0).String())
}

// sctp opens and ends an association by raw packets, because some kernels have no SCTP.
func (n *lan) sctp(client, server string) {
	n.t.Helper()
	network := "ip4:132"
	if netip.MustParseAddr(server).Is6() {
		network = "ip6:132"
	}
	dial := func(m *linuxtest.Machine, from, to string) (c *net.IPConn) {
		n.ok(m.Do(func() (err error) {
			c, err = net.DialIP(network, &net.IPAddr{IP: net.ParseIP(from)}, &net.IPAddr{IP: net.ParseIP(to)})
			return err
		}))
		n.t.Cleanup(func() { c.Close() })
		return c
	}
	atClient, atServer := dial(n.client, client, server), dial(n.server, server, client)
	send := func(from, to *net.IPConn, source, destination byte, chunk byte) {
		n.t.Helper()
		_, err := from.Write([]byte{0, source, 0, destination, 0, 0, 0, 1, 0, 0, 0, 0, chunk, 0, 0, 4})
		n.ok(err)
		_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = to.Read(make([]byte, 100))
		n.ok(err)
	}
	const init, initAck, shutdownComplete = 1, 2, 14
	send(atClient, atServer, 90, 91, init)
	send(atServer, atClient, 91, 90, initAck)
	to := net.JoinHostPort(server, "91")
	n.both(flow.Opened, service.SCTP, to)
	send(atClient, atServer, 90, 91, shutdownComplete)
	for _, e := range pair(n.both(flow.Closed, service.SCTP, to)) {
		if e.Ended.Sent.Packets != 2 || e.Ended.Received.Packets != 1 {
			n.t.Errorf("closed: %s", text(e))
		}
	}
}

func TestClosedPortRefuses(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{Idle: time.Second})
	for _, a := range addresses {
		to := net.JoinHostPort(a.server, "9999")
		if answer, err := n.client.Ask("tcp", to, 5*time.Second); err == nil {
			t.Fatalf("answer %q", answer)
		}
		for _, e := range pair(n.both(flow.Refused, service.TCP, to)) {
			if e.Flags&4 == 0 {
				t.Errorf("no RST: %s", text(e))
			}
		}
		if found := n.seen(is(flow.Opened, n.server, service.TCP, to)); len(found) > 0 {
			t.Errorf("opened at the server: %s", text(found[0]))
		}
		if answer, err := n.client.Ask("udp", to, 5*time.Second); err == nil {
			t.Fatalf("answer %q", answer)
		}
		n.await("the server's ICMP error", func(e flow.Event) bool {
			return e.UID == "uid-server" && e.Source.Addr().String() == a.server && (e.Protocol == flow.ICMPv4 && e.ICMPType == 3 && e.ICMPCode == 3 || e.Protocol == flow.ICMPv6 && e.ICMPType == 1 && e.ICMPCode == 4)
		})
	}
}

func TestResetConnectionCloses(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{})
	n.server.Serve(80)
	to := net.JoinHostPort(addresses[0].server, "80")
	var c net.Conn
	n.ok(n.client.Do(func() (err error) {
		c, err = net.Dial("tcp", to)
		return err
	}))
	n.both(flow.Opened, service.TCP, to)
	b := make([]byte, 100)
	k, err := c.Read(b)
	n.ok(err)
	n.ok(c.(*net.TCPConn).SetLinger(0))
	n.ok(c.Close())
	for _, e := range pair(n.both(flow.Closed, service.TCP, to)) {
		if e.Ended.Received.Bytes != uint64(k) || e.Ended.Sent.Bytes != 0 {
			t.Errorf("closed: %s", text(e))
		}
	}
}

// TestFullBufferDelaysNothing does not read, until the ring buffer is full.
func TestFullBufferDelaysNothing(t *testing.T) {
	n := newLAN(t, "veth")
	n.open(Options{})
	var c net.PacketConn
	n.ok(n.client.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", ":0")
		return err
	}))
	defer c.Close()
	const sent = 20_000
	for i := range sent {
		_, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(addresses[0].server), Port: 20_000 + i})
		n.ok(err)
	}
	n.run()
	n.await("the last ones that found room", is(flow.Opened, n.client, service.UDP, netip.AddrPortFrom(netip.MustParseAddr(addresses[0].server), 20_000).String()))
	opened := n.seen(func(e flow.Event) bool {
		return e.Kind == flow.Opened && e.Protocol == service.UDP && e.UID == "uid-client"
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost == 0 || len(opened) > sent {
		t.Errorf("%d opened and %d lost of %d", len(opened), n.lost, sent)
	}
}

func TestSampleIsTheSameAtBothPods(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{Sample: 4})
	n.server.Serve(80)
	const connections = 200
	to := net.JoinHostPort(addresses[0].server, "80")
	for range connections {
		_, err := n.client.Ask("tcp", to, 5*time.Second)
		n.ok(err)
	}
	n.await("the end of one", is(flow.Closed, n.server, service.TCP, to))
	seen := func() (client, server int) {
		return len(n.seen(is(flow.Closed, n.client, service.TCP, to))), len(n.seen(is(flow.Closed, n.server, service.TCP, to)))
	}
	client, server := seen()
	for deadline := time.Now().Add(5 * time.Second); (client != server || client < connections/10) && time.Now().Before(deadline); client, server = seen() {
		time.Sleep(interval)
	}
	if client != server || client < connections/10 || client > connections/2 {
		t.Errorf("of %d connections, the client saw %d and the server %d", connections, client, server)
	}
}

// ipv4Socket returns a socket of a kind, e.g. unix.SOCK_STREAM, with its cookie.
func ipv4Socket(kind int) (fd int, cookie uint64, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind, 0); err != nil {
		return 0, 0, err
	}
	if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return 0, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, cookie, nil
}

func TestServiceBeforeTranslation(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{Services: servicesDir(t)})
	n.server.Serve(80)
	to := netip.AddrPortFrom(netip.MustParseAddr(addresses[0].server), 80)
	frontend := netip.MustParseAddrPort("10.96.0.1:443")
	n.ok(n.client.Do(func() error {
		fd, cookie, err := ipv4Socket(unix.SOCK_STREAM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := n.c.kernel.services.Peers.Put(cookie, &peer{Service: endpointOf(frontend), Backend: endpointOf(to)}); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: 80})
	}))
	if e := n.await("opened", is(flow.Opened, n.client, service.TCP, to.String())); e.Service != frontend {
		t.Errorf("service %s", e.Service)
	}
}

// TestEachServiceOfSocketIsShown sends from one unconnected socket through two services with the same backend.
func TestEachServiceOfSocketIsShown(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{Services: servicesDir(t)})
	to := netip.AddrPortFrom(netip.MustParseAddr(addresses[0].server), 53)
	frontends := []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("192.0.2.7:5353")}
	n.ok(n.client.Do(func() error {
		fd, cookie, err := ipv4Socket(unix.SOCK_DGRAM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, frontend := range frontends {
			asked := endpointOf(frontend)
			if err := n.c.kernel.services.Replies.Put(&reply{Socket: cookie, Remote: endpointOf(to)}, &asked); err != nil {
				return err
			}
			for range 2 { // the second packet opens nothing
				if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: 53}); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	opened := is(flow.Opened, n.client, service.UDP, to.String())
	n.await("opened for the last service", func(e flow.Event) bool { return opened(e) && e.Service == frontends[1] })
	var got []netip.AddrPort
	for _, e := range n.seen(opened) {
		got = append(got, e.Service)
	}
	if !slices.Equal(got, frontends) {
		t.Errorf("opened for %v", got)
	}
	ended := n.await("the end for the first service", is(flow.Closed, n.client, service.UDP, to.String()))
	if ended.Service != frontends[0] || ended.Ended.Sent.Packets != 2 {
		t.Errorf("closed: %s for %s", text(ended), ended.Service)
	}
}

// reply is struct flow of bpf/endpoint.h.
type reply struct {
	Socket uint64
	Remote endpoint
	Zero   uint32
}

// servicesDir returns a directory with the maps that package bpf pins, without its programs.
func servicesDir(t *testing.T) string {
	t.Helper()
	dir := bpffs(t)
	pins := filepath.Join(dir, "maps-1")
	spec, err := loadFlows()
	if err := errors.Join(err, os.MkdirAll(pins, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{flowsMapPeers, flowsMapReplies} {
		spec.Maps[name].Pinning = ebpf.PinByName
		m, err := ebpf.NewMapWithOptions(spec.Maps[name], ebpf.MapOptions{PinPath: pins})
		if err != nil {
			t.Fatal(err)
		}
		_ = m.Close()
	}
	return dir
}

// peer is struct peer of bpf/endpoint.h.
type peer struct {
	Service, Backend endpoint
	Set              uint32
}

func endpointOf(a netip.AddrPort) endpoint {
	return endpoint{Addr: a.Addr().As16(), Port: [2]byte{byte(a.Port() >> 8), byte(a.Port())}}
}

func TestNothingRemainsBehind(t *testing.T) {
	n := newLAN(t, "veth")
	n.open(Options{})
	if k := n.attached(n.server); k != 2 {
		t.Fatalf("%d programs are attached", k)
	}
	n.c.Detach(n.server.Path())
	if k := n.attached(n.server); k != 0 {
		t.Errorf("%d programs are left", k)
	}
}

// TestLaterInterfacesAreObserved attaches again, as after the ADD of another interface.
func TestLaterInterfacesAreObserved(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{})
	linuxtest.Wire(n.client, "net1", n.server, "net1")
	n.client.Addr("net1", "10.10.0.2/24")
	n.server.Addr("net1", "10.10.0.3/24")
	ns, err := linux.Open(n.client.Path())
	n.ok(err)
	defer ns.Close()
	n.ok(n.c.Attach(ns, n.client.Path(), Pod{}))
	n.server.Serve(80)
	_, err = n.client.Ask("tcp", "10.10.0.3:80", 5*time.Second)
	n.ok(err)
	n.await("opened on net1", func(e flow.Event) bool {
		return e.Interface == "net1" && e.UID == "uid-client" && e.Kind == flow.Opened
	})
}

// BenchmarkPacket measures the programs on a TCP segment with data, the only work for most packets.
func BenchmarkPacket(b *testing.B) {
	n := newLAN(b, "veth")
	n.open(Options{})
	p, err := n.c.kernel.programs(1)
	n.ok(err)
	defer p.Close()
	frame := append([]byte{12: 8, 13: 0}, syn...)
	frame[14+20+13] = 16 // ACK
	frame = append(frame, make([]byte, 1000)...)
	ret, took, err := p.SpiderOut.Benchmark(frame, max(b.N, 1), nil)
	if err != nil || ret != ^uint32(0) {
		b.Fatal(ret, err)
	}
	b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
	fmt.Fprintln(os.Stderr, "see ns/packet; ns/op includes the making of the network")
}

// TestShapedPacketsCountOnce limits the bandwidth, which sends each packet through the interface's hooks twice.
func TestShapedPacketsCountOnce(t *testing.T) {
	n := newLAN(t, "veth")
	ns, err := linux.Open(n.client.Path())
	n.ok(err)
	defer ns.Close()
	st, err := ns.ReadAll()
	n.ok(err)
	n.ok(ns.Apply(netplan.FollowRates(st, "eth0", map[string]netplan.Rates{"eth0": {Ingress: 50_000_000, Egress: 50_000_000}}), nil))
	n.observe(Options{Idle: time.Second})
	n.server.Serve(53)
	n.udp(addresses[0].server)
	n.tcp(addresses[0].client, addresses[0].server)
}
