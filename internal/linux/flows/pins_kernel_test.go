//go:build kernel

package flows

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// bpffs mounts a file system for pins, and returns a directory in it.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return filepath.Join(dir, "flows")
}

// attached returns the number of programs at an interface.
func (n *lan) attached(m *linuxtest.Machine) (all int) {
	n.t.Helper()
	n.ok(m.Do(func() error {
		for _, to := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: m.Link("eth0").Attrs().Index, Attach: to})
			if err != nil {
				return err
			}
			all += len(found.Programs)
		}
		return nil
	}))
	return all
}

// restart replaces the collector as a new process does, and runs the next one.
func (n *lan) restart(o Options, meanwhile func()) {
	n.t.Helper()
	n.ok(n.c.Close())
	meanwhile()
	o.Log = slog.New(slog.DiscardHandler)
	c, err := New(o)
	n.ok(err)
	n.t.Cleanup(func() { _ = c.Close() })
	n.c = c
	n.run()
}

func TestNextAgentReadsWhatItMissed(t *testing.T) {
	n := newLAN(t, "veth")
	o := Options{Pins: bpffs(t), Idle: time.Second}
	n.open(o)
	stop := n.run()
	n.server.Serve(53)
	var early net.Conn // opens with one agent, and ends without
	n.ok(n.client.Do(func() (err error) {
		early, err = net.Dial("tcp", net.JoinHostPort(addresses[0].server, "53"))
		return err
	}))
	n.both(flow.Opened, service.TCP, net.JoinHostPort(addresses[0].server, "53"))
	stop()
	n.restart(o, func() {
		n.ok(early.Close())
		n.exchange(addresses[0].server, 8080, 3000, 7000)
		_, err := n.client.Ask("udp", net.JoinHostPort(addresses[1].server, "53"), 5*time.Second)
		n.ok(err)
	})
	n.both(flow.Closed, service.TCP, net.JoinHostPort(addresses[0].server, "53"))
	to := net.JoinHostPort(addresses[0].server, "8080")
	n.both(flow.Opened, service.TCP, to)
	for _, e := range pair(n.both(flow.Closed, service.TCP, to)) {
		if e.Ended.Sent.Bytes != 3000 || e.Ended.Received.Bytes != 7000 {
			t.Errorf("closed: %s", text(e))
		}
	}
	n.both(flow.Opened, service.UDP, net.JoinHostPort(addresses[1].server, "53"))
	n.attach()
	for _, m := range []*linuxtest.Machine{n.client, n.server} {
		if k := n.attached(m); k != 2 {
			t.Errorf("%d programs at the %s", k, m.Name)
		}
	}
	n.c.Detach(n.client.Path())
	if k := n.attached(n.client); k != 0 {
		t.Errorf("%d programs are left", k)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost > 0 {
		t.Errorf("%d events are lost", n.lost)
	}
}

// Nothing reads the copies of dropped packets while no agent runs, so a filter may have dropped a packet that the next agent finds.
func TestUnheardPacketIsNoFlow(t *testing.T) {
	n := newLAN(t, "veth")
	o := Options{Pins: bpffs(t)}
	n.open(o)
	n.isolate(n.server, policy.Ingress)
	to := netip.MustParseAddrPort(net.JoinHostPort(addresses[0].server, "99"))
	n.restart(o, func() {
		n.ok(n.client.Do(func() error {
			c, err := net.Dial("udp", to.String())
			n.ok(err)
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		}))
	})
	n.await("the packet at the client", is(flow.Opened, n.client, service.UDP, to.String()))
	n.attach()
	n.settle()
	if found := n.seen(is(flow.Opened, n.server, service.UDP, to.String())); len(found) > 0 {
		t.Errorf("opened at the server: %s", text(found[0]))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost != 1 {
		t.Errorf("%d events are lost", n.lost)
	}
}

// A pod that ends while no agent runs leaves its connections, and nothing else.
func TestMissedPodLeavesItsConnections(t *testing.T) {
	n := newLAN(t, "veth")
	o := Options{Pins: bpffs(t)}
	n.open(o)
	to := net.JoinHostPort(addresses[0].server, "8080")
	n.restart(o, func() {
		n.exchange(addresses[0].server, 8080, 1, 1)
		n.ok(n.client.Do(func() error { return netlink.LinkDel(n.client.Link("eth0")) }))
	})
	n.both(flow.Closed, service.TCP, to)
	n.await("the end of the sweep", func(flow.Event) bool {
		kept, err := n.c.kernel.pins.all()
		n.ok(err)
		return len(kept) == 0
	})
}

// TestOtherVersionIsRemoved has pins of another version of the programs, whose maps the present one cannot read.
func TestOtherVersionIsRemoved(t *testing.T) {
	dir := bpffs(t)
	n := newLAN(t, "veth")
	n.open(Options{Pins: dir})
	n.ok(n.c.Close())
	found, err := os.ReadDir(dir)
	n.ok(err)
	n.ok(os.Rename(filepath.Join(dir, found[0].Name()), filepath.Join(dir, "other")))
	n.open(Options{Pins: dir})
	if _, err := os.Stat(filepath.Join(dir, "other")); !os.IsNotExist(err) {
		t.Errorf("the other version: %v", err)
	}
	if k := n.attached(n.client); k != 2 {
		t.Errorf("%d programs", k)
	}
}

// TestPinsNeedBPFFS observes without pins, and says so.
func TestPinsNeedBPFFS(t *testing.T) {
	n := newLAN(t, "veth")
	n.open(Options{Pins: filepath.Join(t.TempDir(), "flows")})
	n.ok(n.c.Close())
	if k := n.attached(n.client); k != 0 {
		t.Errorf("%d programs are left", k)
	}
}
