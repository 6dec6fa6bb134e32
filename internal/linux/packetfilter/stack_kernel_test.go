//go:build kernel

package packetfilter

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// TestNeighborDiscoveryPasses forgets all neighbors of a closed pod.
func TestNeighborDiscoveryPasses(t *testing.T) {
	n := newNetwork(t)
	n.open(t).must(t, closed, closed)
	for _, m := range []*linuxtest.Machine{n.pod, n.peers} {
		all, err := m.NL.NeighList(m.Link("eth0").Attrs().Index, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, neighbor := range all {
			if err := m.NL.NeighDel(&neighbor); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Fatal(err)
			}
		}
	}
	n.compare(t, clusterWith(closed, closed), "without neighbors")
}

// TestListenerReportsPass joins a multicast group in a closed pod.
func TestListenerReportsPass(t *testing.T) {
	n := newNetwork(t)
	n.open(t).must(t, closed, closed)
	group := net.ParseIP("ff05::1234")
	isReport := func(frame []byte) bool {
		return len(frame) >= 90 && frame[12] == 0x86 && frame[20] == 0 && frame[62] == mldV2 && slices.Equal(frame[74:90], group)
	}
	var wire int
	err := n.peers.Do(func() (err error) {
		wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.ETH_P_IPV6<<8&0xff00|unix.ETH_P_IPV6>>8)
		return errors.Join(err, unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(wire)
	var c net.PacketConn
	err = n.pod.Do(func() (err error) {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			c, err = net.ListenMulticastUDP("udp6", ifi, &net.UDPAddr{IP: group, Port: 9999})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for frame := make([]byte, 2048); ; {
		size, _, err := unix.Recvfrom(wire, frame, 0)
		if err != nil {
			t.Fatalf("the report does not arrive: %v", err)
		}
		if isReport(frame[:size]) {
			return
		}
	}
}

// TestErrorsAboutConnectionsPass gets "port unreachable" from a peer that may not open connections.
func TestErrorsAboutConnectionsPass(t *testing.T) {
	n := newNetwork(t)
	n.peers.Sysctl("net/ipv4/icmp_ratelimit", "0")
	n.peers.Sysctl("net/ipv6/icmp/ratelimit", "0")
	f := n.open(t)
	for _, peer := range []string{"10.6.0.3", "fd00:6::3"} {
		f.must(t, closed, allowing(single(peer), service.UDP, 80))
		var c net.Conn
		if err := n.pod.Do(func() (err error) {
			c, err = net.Dial("udp", net.JoinHostPort(peer, "80"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want the peer's refusal", peer, err)
		}
	}
}

// TestFragmentsFollowPolicy sends datagrams of several fragments both ways.
func TestFragmentsFollowPolicy(t *testing.T) {
	n := newNetwork(t)
	n.open(t).must(t, allowing("10.6.0.3/32", service.UDP, 80), allowing("10.6.0.3/32", service.UDP, 80))
	listen := func(m *linuxtest.Machine) *net.UDPConn {
		var c *net.UDPConn
		if err := m.Do(func() (err error) {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 80})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	send := func(m *linuxtest.Machine, from, to string) {
		t.Helper()
		var c *net.UDPConn
		if err := m.Do(func() (err error) {
			c, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.ParseIP(to), Port: 80})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, 4000)); err != nil && !isDrop(err) {
			t.Fatal(err)
		}
	}
	received := func(c *net.UDPConn) (from []netip.Addr) {
		t.Helper()
		b := make([]byte, 5000)
		for len(from) == 0 || from[len(from)-1] != addrOf(nodeAddrs[0]) { // the last one is from or to the node
			if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			size, peer, err := c.ReadFromUDPAddrPort(b)
			if err != nil || size != 4000 {
				t.Fatalf("%d bytes, %v; before: %v", size, err, from)
			}
			from = append(from, peer.Addr().Unmap())
		}
		return from
	}
	pod := listen(n.pod)
	for _, from := range []string{foe, friend, nodeAddrs[0]} {
		send(n.peers, from, podAddrs[0])
	}
	if got := received(pod); !slices.Equal(got, addrsOf([]string{friend, nodeAddrs[0]})) {
		t.Errorf("the pod receives from %v", got)
	}
	peers := listen(n.peers)
	for _, to := range []string{foe, friend} {
		send(n.pod, podAddrs[0], to)
	}
	send(n.peers, nodeAddrs[0], friend)
	if got := received(peers); !slices.Equal(got, addrsOf([]string{podAddrs[0], nodeAddrs[0]})) {
		t.Errorf("the peers receive from %v", got)
	}
}

// TestPolicyWorksWithBandwidth limits the interface: its packets take a detour through an ifb.
func TestPolicyWorksWithBandwidth(t *testing.T) {
	n := newNetwork(t)
	limit := netplan.Limit{Dev: "eth0", Rates: netplan.Rates{Ingress: 1e9, Egress: 1e9}}
	links := netplan.State{netplan.Link{Name: "eth0", MTU: n.pod.Link("eth0").Attrs().MTU}}
	if err := n.ns.Apply(netplan.Diff(nil, limit.Shape(links), nil), nil); err != nil {
		t.Fatal(err)
	}
	rule := allowing("10.6.0.3/32", service.UDP, 80)
	n.open(t).must(t, rule, rule)
	n.compare(t, clusterWith(rule, rule), "with a limit")
}

// TestOtherInterfacesAreOpen has a policy for net1 only.
func TestOtherInterfacesAreOpen(t *testing.T) {
	n := newNetwork(t)
	linuxtest.Wire(n.pod, "net1", n.peers, "net1")
	n.pod.Addr("net1", "10.8.0.1/24")
	n.peers.Addr("net1", "10.8.0.2/24")
	n.pod.Serve(8080)
	f := n.open(t)
	shut := policy.Sets{Ingress: &policy.Allowed{}, Egress: &policy.Allowed{}}
	if err := f.Apply(Wanted{Interfaces: []Interface{{Name: "net1", Sets: shut}}}); err != nil {
		t.Fatal(err)
	}
	n.compare(t, clusterWith(open, open), "a policy for net1")
	if _, err := n.peers.Ask("tcp", "10.8.0.1:8080", 300*time.Millisecond); err == nil {
		t.Error("net1 is open")
	}
	drops, err := f.Drops()
	if err != nil || len(drops) != 2 {
		t.Fatalf("counters %v, %v", drops, err)
	}
	for _, d := range drops {
		if d.Interface != "net1" || d.Direction == policy.Ingress && d.Packets == 0 {
			t.Errorf("counter %+v", d)
		}
	}
	if err := f.Apply(Wanted{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.peers.Ask("tcp", "10.8.0.1:8080", 5*time.Second); err != nil {
		t.Errorf("after the end of the policy: %v", err)
	}
}
