//go:build kernel

package flows

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// lan is a client and a server, with a collector at both.
type lan struct {
	t              testing.TB
	client, server *linuxtest.Machine
	c              *Collector

	mu     sync.Mutex
	events []flow.Event
	lost   uint64
}

var addresses = []struct{ client, server string }{{"10.9.0.2", "10.9.0.3"}, {"fd00:9::2", "fd00:9::3"}}

// kinds are those of interfaces that this kernel has.
func kinds(t testing.TB) []string {
	all := []string{"veth"}
	for _, kind := range []string{"macvlan", "ipvlan"} {
		if linuxtest.HasKind(t, kind) {
			all = append(all, kind)
		}
	}
	return all
}

// newLAN makes the network without observation.
func newLAN(t testing.TB, kind string) *lan {
	t.Helper()
	n := &lan{t: t, client: linuxtest.NewMachine(t, "client"), server: linuxtest.NewMachine(t, "server")}
	if kind == "veth" {
		linuxtest.Wire(n.client, "eth0", n.server, "eth0")
	} else {
		host, far := linuxtest.NewMachine(t, "host"), linuxtest.NewMachine(t, "switch")
		linuxtest.Wire(host, "uplink", far, "port")
		host.Sub(kind, "uplink", n.client, "eth0")
		host.Sub(kind, "uplink", n.server, "eth0")
	}
	for _, a := range addresses {
		bits := "/24"
		if strings.Contains(a.client, ":") {
			bits = "/64"
		}
		n.client.Addr("eth0", a.client+bits)
		n.server.Addr("eth0", a.server+bits)
	}
	return n
}

func podOf(m *linuxtest.Machine) Pod {
	return Pod{Name: lease.PodKey{Namespace: "default", Name: m.Name}, UID: "uid-" + m.Name}
}

// observe starts a collector at both machines.
func (n *lan) observe(o Options) *lan {
	n.t.Helper()
	n.open(o)
	n.run()
	return n
}

// open attaches a collector to both machines, and the client's pair, if it has one.
func (n *lan) open(o Options, pair ...string) {
	n.t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	c, err := New(o)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	n.c = c
	n.attach(pair...)
}

func (n *lan) attach(pair ...string) {
	n.t.Helper()
	for _, m := range []*linuxtest.Machine{n.client, n.server} {
		ns, err := linux.Open(m.Path())
		if err != nil {
			n.t.Fatal(err)
		}
		defer ns.Close()
		pod := podOf(m)
		if m == n.client {
			pod.Pair = strings.Join(pair, "")
		}
		if err := n.c.Attach(ns, m.Path(), pod); err != nil {
			n.t.Fatal(err)
		}
	}
}

// run has the collector tell its events until the end of the test, or until stop.
func (n *lan) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done, c := make(chan error, 1), n.c
	go func() {
		done <- c.Run(ctx, func(events []flow.Event, lost uint64) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events, n.lost = append(n.events, events...), n.lost+lost
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// seen returns the events that match.
func (n *lan) seen(match func(flow.Event) bool) []flow.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.events), func(e flow.Event) bool { return !match(e) })
}

// await returns the first event that matches.
func (n *lan) await(what string, match func(flow.Event) bool) flow.Event {
	n.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found := n.seen(match); len(found) > 0 {
			return found[0]
		}
	}
	for _, e := range n.seen(func(flow.Event) bool { return true }) {
		n.t.Log(text(e))
	}
	n.t.Fatalf("no event: %s", what)
	return flow.Event{}
}

func text(e flow.Event) string {
	return fmt.Sprintf("%s %s %s %s %s %s->%s flags %d type %d %s %+v", e.Kind, e.Pod.Name, e.Interface, e.Direction, e.Protocol, e.Source, e.Destination, e.Flags, e.ICMPType, e.Reason, e.Ended)
}

// is matches an event of a kind at a machine, to an address and port.
func is(kind flow.Kind, m *linuxtest.Machine, p service.Protocol, destination string) func(flow.Event) bool {
	direction := policy.Egress
	if m.Name == "server" {
		direction = policy.Ingress
	}
	to := netip.MustParseAddrPort(destination)
	return func(e flow.Event) bool {
		return e.Kind == kind && e.UID == "uid-"+m.Name && e.Pod.Name == m.Name && e.Interface == "eth0" && e.Direction == direction && e.Protocol == p && e.Destination == to
	}
}

// both waits for an event at both ends.
func (n *lan) both(kind flow.Kind, p service.Protocol, destination string) (client, server flow.Event) {
	n.t.Helper()
	what := fmt.Sprintf("%s %s to %s", kind, p, destination)
	client = n.await(what+" at the client", is(kind, n.client, p, destination))
	server = n.await(what+" at the server", is(kind, n.server, p, destination))
	if client.Source != server.Source {
		n.t.Errorf("%s: sources %s and %s", what, client.Source, server.Source)
	}
	return client, server
}

// exchange sends and receives a number of bytes over TCP.
func (n *lan) exchange(server string, port, sent, received int) {
	n.t.Helper()
	var l net.Listener
	n.ok(n.server.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(server, fmt.Sprint(port)))
		return err
	}))
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		b := make([]byte, 1<<16)
		for total := 0; total < sent; {
			k, err := c.Read(b)
			if err != nil {
				ended <- err
				return
			}
			total += k
		}
		_, err = c.Write(make([]byte, received))
		ended <- err
	}()
	var c net.Conn
	n.ok(n.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := c.Write(make([]byte, sent))
	n.ok(err)
	b, total := make([]byte, 1<<16), 0
	for {
		k, err := c.Read(b)
		if total += k; err != nil {
			break
		}
	}
	if total != received {
		n.t.Fatalf("received %d bytes", total)
	}
	n.ok(<-ended)
}

// ping sends an echo request and waits for the reply.
func (n *lan) ping(client, server string) {
	n.t.Helper()
	network, protocol, request := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho)
	if strings.Contains(server, ":") {
		network, protocol, request = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest
	}
	var c *icmp.PacketConn
	n.ok(n.client.Do(func() (err error) {
		c, err = icmp.ListenPacket(network, client)
		return err
	}))
	defer c.Close()
	m, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 77, Seq: 1, Data: []byte("spider")}}).Marshal(nil)
	n.ok(err)
	_, err = c.WriteTo(m, &net.IPAddr{IP: net.ParseIP(server)})
	n.ok(err)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for b := make([]byte, 1500); ; {
		k, _, err := c.ReadFrom(b)
		n.ok(err)
		if got, err := icmp.ParseMessage(protocol, b[:k]); err == nil && (got.Type == ipv4.ICMPTypeEchoReply || got.Type == ipv6.ICMPTypeEchoReply) {
			return
		}
	}
}

func (n *lan) ok(err error) {
	if err != nil {
		n.t.Helper()
		n.t.Fatal(err)
	}
}
