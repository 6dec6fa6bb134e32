//go:build kernel

package packetfilter

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/service"
)

// dial connects from an address of a machine to port 80 of another one.
func dial(t *testing.T, m *linuxtest.Machine, from, to string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := m.Do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err = d.Dial("tcp", net.JoinHostPort(to, "80"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// works returns an error unless a connection to echo carries data.
func works(c net.Conn, patience time.Duration) error {
	err := c.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = c.Write([]byte("ping\n"))
	}
	if err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && answer != "ping\n" {
		err = errors.New("wrong answer " + answer)
	}
	return err
}

// TestConnectionsOutliveFirstPolicy isolates a pod with idle connections of both directions, which no policy allows.
func TestConnectionsOutliveFirstPolicy(t *testing.T) {
	n := newNetwork(t)
	echo(t, n.pod)
	echo(t, n.peers)
	var older []net.Conn
	for i, peer := range []string{"10.6.0.3", "fd00:6::3"} {
		older = append(older, dial(t, n.peers, peer, podAddrs[i]), dial(t, n.pod, podAddrs[i], peer))
	}
	n.forget(t)
	f := n.open(t)
	if f.Untracked != nil {
		t.Error(f.Untracked)
	}
	f.must(t, closed, closed)
	for _, c := range older {
		if err := works(c, 10*time.Second); err != nil {
			t.Errorf("from %v to %v: %v", c.LocalAddr(), c.RemoteAddr(), err)
		}
	}
	n.compare(t, clusterWith(closed, closed), "beside older connections")
}

// TestSegmentWithoutSYNIsNew sends segments as in the middle of a connection that does not exist.
func TestSegmentWithoutSYNIsNew(t *testing.T) {
	n := newNetwork(t)
	n.open(t).must(t, closed, closed)
	for _, egress := range []bool{true, false} {
		p := n.next(egress, netip.MustParseAddr("10.6.0.3"), service.TCP, 80)
		from, to := p.ends()
		segment := p.bytes()
		segment[13] = 0x10 // ACK
		machine := n.peers
		if egress {
			machine = n.pod
		}
		sender := rawSocketOnce(machine, p.protocol, from)
		if sender.err != nil {
			t.Fatal(sender.err)
		}
		err := unix.Sendto(sender.fd, segment, 0, &unix.SockaddrInet4{Addr: as4(to)})
		_ = unix.Close(sender.fd)
		if err != nil && !isDrop(err) {
			t.Fatal(err)
		}
		if n.arrived(t, nil, nil)[p.number] {
			t.Errorf("egress %v: a segment without SYN passes", egress)
		}
	}
}
