//go:build linux

package linuxtest

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Flow is traffic between two machines: TCP, or UDP at a rate.
type Flow struct {
	From, To *Machine
	Network  string // "tcp" or "udp"
	Address  string // an address of To, without a port
	// UDPRate is the rate of the sender in bits per second. It sends packets of 1400 bytes,
	// at high rates several with one call (UDP_SEGMENT of udp(7)).
	UDPRate float64
	For     time.Duration
}

// Measure returns the rate at the receiver, in bits per second of payload.
func (f Flow) Measure(t testing.TB) float64 {
	t.Helper()
	if f.Network == "udp" {
		return f.udp(t)
	}
	return f.tcp(t)
}

// payload is the length of the sender's UDP packets in bytes.
const payload = 1400

func (f Flow) tcp(t testing.TB) float64 {
	t.Helper()
	var l net.Listener
	f.To.ok(f.To.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(f.Address), 0).String())
		return err
	}))
	defer l.Close()
	var c net.Conn
	f.From.ok(f.From.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}))
	defer c.Close()
	in, err := l.Accept()
	f.To.ok(err)
	defer in.Close()
	go func() {
		b := make([]byte, 128<<10)
		_ = c.SetWriteDeadline(time.Now().Add(f.For + time.Second))
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	return f.receive(t, in)
}

func (f Flow) udp(t testing.TB) float64 {
	t.Helper()
	var in *net.UDPConn
	var c net.Conn
	f.To.ok(f.To.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(f.Address), 0)))
		return err
	}))
	defer in.Close()
	f.To.ok(in.SetReadBuffer(4 << 20))
	f.From.ok(f.From.Do(func() (err error) {
		c, err = net.Dial("udp", in.LocalAddr().String())
		return err
	}))
	defer c.Close()
	batch := int(min(max(f.UDPRate/8/payload/1000, 1), 40)) // packets of a millisecond
	f.From.ok(setUDP(c.(*net.UDPConn), unix.UDP_SEGMENT, payload))
	f.To.ok(setUDP(in, unix.UDP_GRO, 1))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		b, sent, began := make([]byte, batch*payload), 0.0, time.Now()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if ahead := sent/f.UDPRate - time.Since(began).Seconds(); ahead > 0.001 {
				time.Sleep(time.Duration(ahead * float64(time.Second)))
			}
			_, _ = c.Write(b) // a full queue refuses packets
			sent += float64(len(b) * 8)
		}
	}()
	return f.receive(t, in)
}

func setUDP(c *net.UDPConn, option, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var fault error
	if err := raw.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, option, value) }); err != nil {
		return err
	}
	return fault
}

// receive measures from a fifth of the time on, so that the contents of buckets and
// queues do not count.
func (f Flow) receive(t testing.TB, in net.Conn) float64 {
	t.Helper()
	b := make([]byte, 256<<10)
	began := time.Now()
	warm, end := began.Add(f.For/5), began.Add(f.For)
	_ = in.SetReadDeadline(end)
	var first, last time.Time
	total := 0
	for {
		n, err := in.Read(b)
		if err != nil {
			break
		}
		last = time.Now()
		switch {
		case first.IsZero() && last.After(warm):
			first = last
		case !first.IsZero():
			total += n
		}
	}
	if !last.After(first) || total == 0 {
		t.Fatalf("%s from %s to %s: nothing arrived in %s", f.Network, f.From.Name, f.To.Name, f.For)
	}
	return float64(total*8) / last.Sub(first).Seconds()
}

func (f Flow) String() string {
	return fmt.Sprintf("%s from %s to %s", f.Network, f.From.Name, f.To.Name)
}
