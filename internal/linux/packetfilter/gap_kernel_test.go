//go:build kernel

package packetfilter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// The floods send UDP to port 80. friend may always send and receive it, foe never.
const friend, foe = "10.6.0.3", "10.6.0.4"

// flood sends packets without pause. Nothing answers, so connection tracking considers each packet new.
type flood struct {
	*network
	t *testing.T
	context.Context
	wg                    sync.WaitGroup
	sent, received        atomic.Uint64 // numbers of the last packets from friend
	lost, leaked, packets atomic.Uint64
	first                 atomic.Pointer[string]
}

func (f *flood) note(counter *atomic.Uint64, format string, args ...any) {
	counter.Add(1)
	text := fmt.Sprintf(format, args...)
	f.first.CompareAndSwap(nil, &text)
}

// listen receives what arrives at the pod.
func (f *flood) listen() *net.UDPConn {
	var c *net.UDPConn
	err := f.pod.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 80})
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.wg.Go(func() {
		buffer := make([]byte, 64)
		for {
			size, from, err := c.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return // the end of the test
			}
			switch number := binary.BigEndian.Uint64(buffer[:size]); {
			case from.Addr() != netip.MustParseAddr(friend):
				f.note(&f.leaked, "a packet from %s", from.Addr())
			case number != f.received.Load()+1:
				f.note(&f.lost, "packets %d to %d from %s", f.received.Load()+1, number-1, friend)
				f.received.Store(number)
			default:
				f.received.Store(number)
			}
		}
	})
	return c
}

// from sends to the pod, at most some packets ahead of the receiver.
func (f *flood) from(peer string) {
	s := rawSocketOnce(f.peers, service.UDP, netip.MustParseAddr(peer))
	if s.err != nil {
		f.t.Fatal(s.err)
	}
	f.wg.Go(func() {
		defer unix.Close(s.fd)
		to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(podAddrs[0]).As4()}
		for f.Err() == nil {
			number := uint64(1)
			if peer == friend {
				if f.sent.Load() > f.received.Load()+1000 {
					time.Sleep(time.Millisecond)
					continue
				}
				number = f.sent.Add(1)
			}
			body := binary.BigEndian.AppendUint64([]byte{0x4e, 0x20, 0, 80, 0, 16, 0, 0}, number)
			if err := unix.Sendto(s.fd, body, 0, to); err != nil {
				f.note(&f.lost, "send from %s: %v", peer, err)
			}
			f.packets.Add(1)
		}
	})
}

// to sends from the pod. With IP_RECVERR, the kernel tells the sender whether the filter drops the packet.
func (f *flood) to(peer string) {
	s := rawSocketOnce(f.pod, service.UDP, netip.MustParseAddr(podAddrs[0]))
	if s.err == nil {
		s.err = unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	}
	if s.err != nil {
		f.t.Fatal(s.err)
	}
	f.wg.Go(func() {
		defer unix.Close(s.fd)
		to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(peer).As4()}
		body := []byte{0x4e, 0x21, 0, 80, 0, 8, 0, 0}
		for f.Err() == nil {
			f.judge(peer, unix.Sendto(s.fd, body, 0, to))
		}
	})
}

func (f *flood) judge(peer string, err error) {
	f.packets.Add(1)
	switch {
	case peer == friend && err != nil:
		f.note(&f.lost, "a packet to %s: %v", peer, err)
	case peer == foe && !isDrop(err):
		f.note(&f.leaked, "a packet to %s: %v", peer, err)
	}
}

// frames sends by the packet socket.
func (f *flood) frames(peer string) {
	p := f.next(true, netip.MustParseAddr(peer), service.UDP, 80)
	frame, to := p.frame(f.network), &unix.SockaddrLinklayer{Ifindex: f.pod.Link("eth0").Attrs().Index, Protocol: 8}
	f.wg.Go(func() {
		for f.Err() == nil {
			f.judge(peer, unix.Sendto(f.packet, frame, 0, to))
			time.Sleep(20 * time.Microsecond) // a packet socket is faster than its peer
		}
	})
}

// during floods while change runs again and again.
func (n *network) during(t *testing.T, change func(i int) error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f := &flood{network: n, t: t, Context: ctx}
	listener := f.listen()
	for _, peer := range []string{friend, foe} {
		f.from(peer)
		f.to(peer)
		if n.framesJudged {
			f.frames(peer)
		}
	}
	var changes int
	for end := time.Now().Add(3 * time.Second); changes < 20 || time.Now().Before(end); changes++ {
		if err := change(changes); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	for wait := time.Now().Add(5 * time.Second); f.received.Load() < f.sent.Load() && time.Now().Before(wait); {
		time.Sleep(time.Millisecond)
	}
	if f.received.Load() < f.sent.Load() {
		f.note(&f.lost, "the packets %d to %d at the end", f.received.Load()+1, f.sent.Load())
	}
	_ = listener.Close()
	f.wg.Wait()
	t.Logf("%d changes, %d packets", changes, f.packets.Load())
	if lost, leaked := f.lost.Load(), f.leaked.Load(); lost+leaked > 0 {
		t.Errorf("lost %d times, leaked %d packets, the first: %s", lost, leaked, *f.first.Load())
	}
}

func peersRule(port uint16, blocks ...*policy.Block) policy.Rule {
	r := policy.Rule{Ports: []policy.Port{{Protocol: service.UDP, From: port, To: port}}}
	for _, b := range blocks {
		r.Peers = append(r.Peers, policy.Peer{Block: b})
	}
	return r
}

func block(prefix string, except ...string) *policy.Block {
	b := &policy.Block{Prefix: netip.MustParsePrefix(prefix)}
	for _, e := range except {
		b.Except = append(b.Except, netip.MustParsePrefix(e))
	}
	return b
}

func isolated(rules ...policy.Rule) policy.Section {
	return policy.Section{Isolates: true, Rules: rules}
}

// TestNoGapWhilePolicyChanges fails on each lost packet of an allowed peer and on each packet of another one.
func TestNoGapWhilePolicyChanges(t *testing.T) {
	// friend is in a range of 32 addresses or more.
	single, wide := block(friend+"/32"), block("10.0.0.0/8", foe+"/32")
	for name, section := range map[string]func(i int) policy.Section{
		"other peers": func(i int) policy.Section {
			return isolated(peersRule(80, single, block(fmt.Sprintf("10.9.%d.1/32", i%250))))
		},
		"other ranges": func(i int) policy.Section {
			return isolated(peersRule(80, wide, block(fmt.Sprintf("192.0.%d.0/24", 1+i%5))))
		},
		"other ports": func(i int) policy.Section {
			return isolated(peersRule(80, single), peersRule(uint16(81+i%7), block("10.9.0.0/16")))
		},
		"one address, then its network": func(i int) policy.Section {
			return isolated(peersRule(80, [...]*policy.Block{single, wide}[i%2]))
		},
		"one port, then any": func(i int) policy.Section {
			rule, other := peersRule(80, single), peersRule(81, block("10.9.0.0/16"))
			rule.AnyPort = i%2 == 0
			return isolated(rule, other)
		},
		"many peers": func(i int) policy.Section {
			rule := peersRule(80, single)
			for j := range 300 * (1 + i%2) {
				rule.Peers = append(rule.Peers, policy.Peer{Block: block(fmt.Sprintf("10.9.%d.%d/32", j/100, 2*(j%100)))})
			}
			return isolated(rule)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t)
			f := n.open(t)
			f.must(t, section(0), section(0))
			n.during(t, func(i int) error { return f.Apply(wantedOf(clusterWith(section(i), section(i)))) })
		})
	}
}

// TestNoGapBetweenAgents ends and starts agents.
func TestNoGapBetweenAgents(t *testing.T) {
	n := newNetwork(t)
	section := isolated(peersRule(80, block(friend+"/32")), peersRule(81, block("10.9.0.0/16")))
	f := n.open(t)
	f.must(t, section, section)
	n.during(t, func(i int) error {
		var next *Filter
		var err error
		if i%2 == 0 { // both run for a while
			next, err = Open(n.ns)
			if err == nil {
				err = next.Apply(wantedOf(clusterWith(section, section)))
			}
		}
		err = errors.Join(err, f.Close())
		if next == nil && err == nil {
			next, err = Open(n.ns)
		}
		if f = next; err != nil {
			return err
		}
		return f.Apply(wantedOf(clusterWith(section, section)))
	})
	_ = f.Close()
}
