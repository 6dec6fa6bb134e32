//go:build kernel

package packetfilter

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/service"
)

// listenUDP opens a socket on an address and port of a machine.
func listenUDP(t *testing.T, m *linuxtest.Machine, addr string, port int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	if err := m.Do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr), Port: port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// passes sends a datagram between two sockets, and reports whether it arrives within patience. Only a filter that cannot
// drop silently may refuse it at the sender.
func passes(t *testing.T, f *Filter, from, to *net.UDPConn, patience time.Duration) bool {
	t.Helper()
	if _, err := from.WriteTo([]byte("?"), to.LocalAddr()); !f.silences && errors.Is(err, unix.EPERM) {
		return false
	} else if err != nil {
		t.Fatalf("%v to %v: %v", from.LocalAddr(), to.LocalAddr(), err)
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _, err := to.ReadFrom(make([]byte, 8))
	return err == nil
}

const (
	soon = 200 * time.Millisecond // for a datagram that should not arrive
	late = 10 * time.Second
)

// kernelLacks reports whether the kernel was built without an option. A kernel without /proc/config.gz lacks none.
func kernelLacks(t *testing.T, option string) bool {
	t.Helper()
	file, err := os.Open("/proc/config.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(text)
	if err != nil {
		t.Fatal(err)
	}
	return !bytes.Contains(config, []byte("\n"+option+"="))
}

// TestDroppedDatagramIsSilent sends to a peer that the policy forbids. The connection must not count as begun.
func TestDroppedDatagramIsSilent(t *testing.T) {
	n := newNetwork(t)
	f := n.open(t)
	f.must(t, closed, closed)
	if !f.silences && !kernelLacks(t, "CONFIG_NF_CONNTRACK_TIMEOUT") {
		t.Fatal("the filter does not drop silently, although the kernel can")
	}
	for i, peerAddr := range []string{"10.6.0.3", "fd00:6::3"} {
		pod, peer := listenUDP(t, n.pod, podAddrs[i], 5000+i), listenUDP(t, n.peers, peerAddr, 6000+i)
		f.must(t, closed, closed)
		for range 3 {
			if passes(t, f, pod, peer, soon) {
				t.Errorf("%s: the datagram arrives", peerAddr)
			}
			if passes(t, f, peer, pod, soon) {
				t.Errorf("%s: the peer's datagram arrives, although the pod's was dropped", peerAddr)
			}
		}
		f.must(t, closed, allowing(single(peerAddr), service.UDP, uint16(6000+i)))
		if !passes(t, f, pod, peer, late) {
			t.Errorf("%s: an allowed datagram does not arrive", peerAddr)
		}
		if !passes(t, f, peer, pod, late) {
			t.Errorf("%s: the answer does not arrive", peerAddr)
		}
		var c net.Conn
		err := n.pod.Do(func() (err error) {
			c, err = net.DialTimeout("tcp", net.JoinHostPort(peerAddr, "80"), 1500*time.Millisecond)
			return err
		})
		if err == nil {
			_ = c.Close()
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: connect over TCP: %v, want a timeout", peerAddr, err)
		}
	}
	if got := n.dropsOf(t, f, 1); got < 6 {
		t.Errorf("%d dropped packets, want at least the 6 datagrams", got)
	}
}

// TestNewLinkIsClosedAtOnce replaces the interface. The rules of the former one ended with it.
func TestNewLinkIsClosedAtOnce(t *testing.T) {
	n := newNetwork(t)
	f := n.open(t)
	f.must(t, closed, closed)
	if err := n.pod.NL.LinkDel(n.pod.Link("eth0")); err != nil {
		t.Fatal(err)
	}
	linuxtest.Wire(n.pod, "eth0", n.peers, "eth0")
	n.pod.Addr("eth0", "10.6.0.1/24")
	n.peers.Addr("eth0", "10.6.0.3/24")
	peer := listenUDP(t, n.peers, "10.6.0.3", 6000)
	pod := listenUDP(t, n.pod, "10.6.0.1", 5000)
	expect := func(when string) {
		t.Helper()
		if _, err := pod.WriteTo([]byte("?"), peer.LocalAddr()); err != nil && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		_ = peer.SetReadDeadline(time.Now().Add(soon))
		if _, _, err := peer.ReadFrom(make([]byte, 8)); err == nil {
			t.Errorf("%s: the datagram arrives", when)
		}
	}
	expect("on a new link")
	f.must(t, closed, closed)
	expect("with rules for the new link")
	if passes(t, f, pod, peer, soon) { // without an error, if the kernel can
		t.Error("the datagram arrives")
	}
	f.must(t, closed, open)
	if !passes(t, f, pod, peer, late) {
		t.Error("an allowed datagram does not arrive")
	}
}
