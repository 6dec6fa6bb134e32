// Package pathprobe asks the questions of package reach from the network namespace of the process,
// answers those of others, and reads the state of the namespace. It needs no privileges.
package pathprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// questionLength is the least length of a question by UDP in bytes. The answer is as long as its
// question, so that the server is of no use to a sender with a forged address.
const questionLength = 128

// Server answers on one port by TCP and UDP with its name and the address of the client.
type Server struct {
	name       string
	tcp        net.Listener
	udp4, udp6 net.PacketConn // nil without the IP version
}

// Listen opens the port on all addresses of the network namespace of the calling thread.
func Listen(name string, port uint16) (*Server, error) {
	s := &Server{name: name}
	var err error
	if s.tcp, err = net.Listen("tcp", ":"+strconv.Itoa(int(port))); err != nil {
		return nil, err
	}
	var missing4, missing6 error
	s.udp4, missing4 = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port))
	s.udp6, missing6 = net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", port))
	if missing4 != nil && missing6 != nil {
		_ = s.tcp.Close()
		return nil, errors.Join(missing4, missing6)
	}
	return s, nil
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	defer s.close()
	failed := make(chan error, 3)
	go func() { failed <- s.serveTCP() }()
	if s.udp4 != nil {
		go func() { failed <- s.serve4() }()
	}
	if s.udp6 != nil {
		go func() { failed <- s.serve6() }()
	}
	if err := <-failed; ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *Server) close() {
	_ = s.tcp.Close()
	for _, c := range []net.PacketConn{s.udp4, s.udp6} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// replyTimeout bounds an answer by TCP.
const replyTimeout = 5 * time.Second

func (s *Server) serveTCP() error {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(replyTimeout))
		_, _ = c.Write([]byte(s.answer(c.RemoteAddr())))
		_ = c.Close()
	}
}

// answer returns e.g. "probe-0-a 10.6.0.5\n".
func (s *Server) answer(client net.Addr) string {
	text := client.String()
	if at, err := netip.ParseAddrPort(text); err == nil {
		text = at.Addr().Unmap().WithZone("").String()
	}
	return s.name + " " + text + "\n"
}

// fill returns the answer with the length of the question, nil for a question that is too short.
func (s *Server) fill(question []byte, client net.Addr) []byte {
	if len(question) < questionLength {
		return nil
	}
	clear(question)
	copy(question, s.answer(client))
	return question
}

// serve4 answers from the address that the client asked, like any server with several addresses.
func (s *Server) serve4() error {
	c := ipv4.NewPacketConn(s.udp4)
	if err := errors.Join(c.SetControlMessage(ipv4.FlagDst, true), dontFragment(s.udp4, unix.IPPROTO_IP)); err != nil {
		return err
	}
	b := make([]byte, 1<<16)
	for {
		n, m, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if answer := s.fill(b[:n], from); answer != nil {
			_, _ = c.WriteTo(answer, &ipv4.ControlMessage{Src: m.Dst}, from)
		}
	}
}

func (s *Server) serve6() error {
	c := ipv6.NewPacketConn(s.udp6)
	if err := errors.Join(c.SetControlMessage(ipv6.FlagDst, true), dontFragment(s.udp6, unix.IPPROTO_IPV6)); err != nil {
		return err
	}
	b := make([]byte, 1<<16)
	for {
		n, m, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if answer := s.fill(b[:n], from); answer != nil {
			_, _ = c.WriteTo(answer, &ipv6.ControlMessage{Src: m.Dst}, from)
		}
	}
}

// dontFragment makes a socket send unfragmented packets up to the MTU of the interface, whatever
// path MTU the kernel remembers (IP_MTU_DISCOVER of ip(7)).
func dontFragment(c net.PacketConn, level int) error {
	option, value := unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if level == unix.IPPROTO_IPV6 {
		option, value = unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil {
		return err
	}
	return failed
}
