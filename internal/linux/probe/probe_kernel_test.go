//go:build kernel

package probe_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/linux/probe"
)

// on runs f with an interface of a machine.
func on(m *linuxtest.Machine, dev string, f func(*net.Interface) error) error {
	return m.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		return f(ifi)
	})
}

// TestConcurrentProbesNoticeEachOther lets both ask until one notices, so
// that they ask at the same time at some point.
func TestConcurrentProbesNoticeEachOther(t *testing.T) {
	a, b := linuxtest.NewMachine(t, "a"), linuxtest.NewMachine(t, "b")
	linuxtest.Wire(a, "x", b, "y")
	for _, addr := range []string{"10.1.0.5", "fd00::5"} {
		holders := make(chan net.HardwareAddr)
		ask := func(m *linuxtest.Machine, dev string) {
			var holder net.HardwareAddr
			err := on(m, dev, func(ifi *net.Interface) (err error) {
				holder, err = probe.Resolve(ifi, netip.MustParseAddr(addr), netip.Addr{}, probe.Options{Attempts: 20, Timeout: 50 * time.Millisecond})
				return err
			})
			if err != nil {
				t.Error(err)
			}
			holders <- holder
		}
		go ask(a, "x")
		go ask(b, "y")
		if first, second := <-holders, <-holders; first == nil && second == nil {
			t.Errorf("%s: neither noticed the other", addr)
		}
	}
}

func TestProbeNeedsNoSourceAddress(t *testing.T) {
	a, b := linuxtest.NewMachine(t, "a"), linuxtest.NewMachine(t, "b")
	linuxtest.Wire(a, "x", b, "y")
	b.Addr("y", "10.1.0.1/24", "fd00::1/64")
	want := b.Link("y").Attrs().HardwareAddr.String()
	for addr, from := range map[string]string{"10.1.0.1": "10.1.0.5", "fd00::1": "fd00::5"} {
		err := on(a, "x", func(ifi *net.Interface) error {
			holder, err := probe.Resolve(ifi, netip.MustParseAddr(addr), netip.MustParseAddr(from), probe.Default)
			if holder.String() != want {
				t.Errorf("%s is at %s, want %s", addr, holder, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if out := b.Must("", "ip", "neighbour"); !strings.Contains(out, "10.1.0.5") || !strings.Contains(out, "fd00::5") {
		t.Errorf("neighbors of the asked machine:\n%s", out)
	}
}

func TestLoopbackIsRefused(t *testing.T) {
	m := linuxtest.NewMachine(t, "m")
	err := on(m, "lo", func(ifi *net.Interface) error {
		_, err := probe.Resolve(ifi, netip.MustParseAddr("127.0.0.2"), netip.Addr{}, probe.Default)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "lo is not an Ethernet interface") {
		t.Errorf("got %v", err)
	}
}
