//go:build kernel

package flows

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// isolate has a machine drop everything of a direction.
func (n *lan) isolate(m *linuxtest.Machine, d policy.Direction) {
	n.t.Helper()
	ns, err := linux.Open(m.Path())
	n.ok(err)
	defer ns.Close()
	f, err := packetfilter.Open(ns)
	n.ok(err)
	n.t.Cleanup(func() { _ = f.Close() })
	n.ok(f.LogDrops())
	closed := policy.Sets{Ingress: &policy.Allowed{}}
	if d == policy.Egress {
		closed = policy.Sets{Egress: &policy.Allowed{}}
	}
	n.ok(f.Apply(packetfilter.Wanted{Interfaces: []packetfilter.Interface{{Name: "eth0", Sets: closed}}}))
}

var denying = []policy.Name{{Namespace: "default", Name: "deny"}}

// denyAll is the policy of every pod, for packets between client and server.
func denyAll(_ lease.PodKey, dev string, _ policy.Direction, p policy.Packet) []policy.Name {
	for _, a := range addresses {
		if dev == "eth0" && p.From.String() == a.client && p.To.String() == a.server && p.Port == 80 {
			return denying
		}
	}
	return nil
}

// settle returns when the events so far do not wait any more: those of later looks have arrived. The server may send.
func (n *lan) settle() {
	n.t.Helper()
	for port := 1; port <= looksHeld+1; port++ {
		var c net.Conn
		n.ok(n.server.Do(func() (err error) {
			c, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(addresses[0].server)}, &net.UDPAddr{IP: net.ParseIP(addresses[0].client), Port: port})
			return err
		}))
		_, err := c.Write([]byte("x"))
		n.ok(err)
		n.ok(c.Close())
		n.await("the marker", func(e flow.Event) bool {
			return e.Kind == flow.Opened && e.UID == "uid-server" && e.Direction == policy.Egress && int(e.Destination.Port()) == port
		})
	}
}

func TestDropsNamePolicyAndPod(t *testing.T) {
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		t.Run(d.String(), func(t *testing.T) {
			n := newLAN(t, "veth").observe(Options{Policies: denyAll})
			n.server.Serve(80)
			at := n.server
			if d == policy.Egress {
				at = n.client
			}
			n.isolate(at, d)
			for _, a := range addresses {
				to := net.JoinHostPort(a.server, "80")
				for network, protocol := range map[string]service.Protocol{"tcp": service.TCP, "udp": service.UDP} {
					if answer, err := n.client.Ask(network, to, 300*time.Millisecond); err == nil {
						t.Fatalf("answer %q", answer)
					}
					e := n.await("denied", is(flow.Denied, at, protocol, to))
					if e.Reason != flow.ByPolicy || len(e.Policies) != 1 || e.Policies[0] != denying[0] || e.Source.Addr().String() != a.client {
						t.Errorf("denied: %s, policies %v", text(e), e.Policies)
					}
					if protocol == service.TCP && e.Flags != 2 {
						t.Errorf("flags: %s", text(e))
					}
				}
			}
			n.settle()
			if found := n.seen(is(flow.Opened, at, service.UDP, net.JoinHostPort(addresses[0].server, "80"))); len(found) > 0 {
				t.Errorf("opened: %s", text(found[0]))
			}
			if found := n.seen(is(flow.Opened, at, service.TCP, net.JoinHostPort(addresses[0].server, "80"))); len(found) > 0 {
				t.Errorf("opened: %s", text(found[0]))
			}
		})
	}
}

func TestForgedSourceIsDenied(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{})
	ns, err := linux.Open(n.client.Path())
	n.ok(err)
	defer ns.Close()
	link := n.client.Link("eth0").Attrs()
	own := netip.PrefixFrom(netip.MustParseAddr(addresses[0].client), 32)
	n.ok(ns.Apply(netplan.Diff(nil, netplan.State{netplan.NewGuard("eth0", netplan.MAC(link.HardwareAddr), []netip.Prefix{own})}, nil), nil))
	frame := linuxtest.IPv4Frame(link.HardwareAddr, "192.0.2.66")
	n.ok(n.client.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: 0x0008}); !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("the guard drops the frame, and sendto returns %w", err)
		}
		return nil
	}))
	e := n.await("denied", func(e flow.Event) bool { return e.Kind == flow.Denied })
	if e.Reason != flow.BySpoofing || e.UID != "uid-client" || e.Interface != "eth0" || e.Direction != policy.Egress || e.Source.Addr().String() != "192.0.2.66" {
		t.Errorf("denied: %s", text(e))
	}
}

// TestFloodOfDropsIsBounded sends more packets to a closed pod than its rules may copy.
func TestFloodOfDropsIsBounded(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{})
	n.isolate(n.server, policy.Ingress)
	var c net.PacketConn
	n.ok(n.client.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", ":0")
		return err
	}))
	defer c.Close()
	const sent = 2000
	for i := range sent {
		_, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(addresses[0].server), Port: 20_000 + i})
		n.ok(err)
	}
	n.await("a denied packet", func(e flow.Event) bool { return e.Kind == flow.Denied })
	n.await("the client's last one", is(flow.Opened, n.client, service.UDP, netip.AddrPortFrom(netip.MustParseAddr(addresses[0].server), 20_000+sent-1).String()))
	n.settle()
	if found := n.seen(func(e flow.Event) bool {
		return e.Kind == flow.Opened && e.UID == "uid-server" && e.Direction == policy.Ingress && e.Protocol == service.UDP
	}); len(found) > 0 {
		t.Errorf("%d dropped packets have opened connections, e.g. %s", len(found), text(found[0]))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost == 0 {
		t.Error("none is lost")
	}
}

// TestLateCopiesAreAwaited keeps the copies of dropped packets from the collector for longer than an event waits.
func TestLateCopiesAreAwaited(t *testing.T) {
	n := newLAN(t, "veth").observe(Options{})
	n.isolate(n.server, policy.Ingress)
	n.c.mu.Lock()
	log := n.c.mu.spaces[n.server.Path()].log
	n.c.mu.Unlock()
	log.mu.Lock()
	const sent = 10
	for i := range sent {
		if answer, err := n.client.Ask("udp", fmt.Sprintf("%s:%d", addresses[0].server, 20_000+i), time.Millisecond); err == nil {
			t.Errorf("answer %q", answer)
		}
	}
	time.Sleep((looksHeld + 3) * interval)
	log.mu.Unlock()
	n.await("the last denied packet", func(e flow.Event) bool {
		return e.Kind == flow.Denied && e.Destination.Port() == 20_000+sent-1
	})
	n.settle()
	if found := n.seen(func(e flow.Event) bool {
		return e.Kind == flow.Opened && e.UID == "uid-server" && e.Direction == policy.Ingress && e.Protocol == service.UDP
	}); len(found) > 0 {
		t.Errorf("%d dropped packets have opened connections, e.g. %s", len(found), text(found[0]))
	}
}

// TestNodeDropsNamePod has a node between client and server, which drops by the policies of the client, the pod.
func TestNodeDropsNamePod(t *testing.T) {
	const pair = "spv0123456789ab"
	n := &lan{t: t, client: linuxtest.NewMachine(t, "client"), server: linuxtest.NewMachine(t, "server")}
	node := linuxtest.NewMachine(t, "node")
	linuxtest.Wire(n.client, "veth0", node, pair)
	linuxtest.Wire(node, "eth0", n.server, "eth0")
	node.Sysctl("net/ipv4/ip_forward", "1")
	n.client.Addr("veth0", "10.9.0.2/24")
	node.Addr(pair, "10.9.0.1/24")
	node.Addr("eth0", "10.8.0.1/24")
	n.server.Addr("eth0", "10.8.0.3/24")
	n.client.Route("default", "10.9.0.1", "veth0")
	n.server.Route("default", "10.8.0.1", "eth0")
	n.open(Options{}, pair)
	ns, err := linux.Open(node.Path())
	n.ok(err)
	defer ns.Close()
	n.ok(n.c.AttachNode(ns))
	n.ok(n.c.AttachNode(ns)) // a later look
	n.run()
	f, err := packetfilter.OpenNode(ns)
	n.ok(err)
	t.Cleanup(func() { _ = f.Close() })
	n.ok(f.LogDrops())
	own := []netip.Addr{netip.MustParseAddr("10.9.0.2")}
	n.client.Serve(80)
	for _, c := range []struct {
		policy.Sets
		policy.Direction
		from                *linuxtest.Machine
		source, destination string
	}{
		{policy.Sets{Egress: &policy.Allowed{}}, policy.Egress, n.client, "10.9.0.2", "10.8.0.3:80"},
		{policy.Sets{Ingress: &policy.Allowed{}}, policy.Ingress, n.server, "10.8.0.3", "10.9.0.2:80"},
	} {
		n.ok(f.Set(pair, packetfilter.Wanted{Interfaces: []packetfilter.Interface{{Name: "eth0", Addrs: own, Sets: c.Sets}}}))
		if answer, err := c.from.Ask("udp", c.destination, 300*time.Millisecond); err == nil {
			t.Fatalf("answer %q", answer)
		}
		e := n.await("denied "+c.Direction.String(), func(e flow.Event) bool { return e.Kind == flow.Denied && e.Direction == c.Direction })
		if e.Reason != flow.ByPolicy || e.UID != "uid-client" || e.Interface != "eth0" || e.Source.Addr().String() != c.source || e.Destination.String() != c.destination {
			t.Errorf("denied: %s", text(e))
		}
	}
}
