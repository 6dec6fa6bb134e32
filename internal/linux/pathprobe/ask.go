package pathprobe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/reach"
)

// Timings of a question. A TCP connection has time for one repeated SYN (after 1 s), UDP for two
// repeated packets.
const (
	patience    = 3 * time.Second
	udpAttempts = 3
	// atOnce is the number of questions at the same time.
	atOnce = 16
)

// Probe asks all questions of a request, and then reads the state.
func Probe(ctx context.Context, r reach.Request) (reach.Reply, error) {
	reply := reach.Reply{Answers: make([]reach.Answer, len(r.Questions))}
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, q := range r.Questions {
		wait.Add(1)
		go func() {
			defer wait.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			if ctx.Err() == nil {
				reply.Answers[i] = Ask(q)
			}
		}()
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return reply, err
	}
	var err error
	reply.Facts, err = Facts(r.Peers)
	return reply, err
}

// Ask asks one question from the network namespace of the calling thread. It opens all sockets on
// that thread.
func Ask(q reach.Question) reach.Answer {
	var answer reach.Answer
	var err error
	switch q.Kind {
	case reach.TCP:
		answer, err = askTCP(q.To)
	case reach.UDP:
		answer, err = askUDP(q.To)
	case reach.Connect:
		err = connect(q.To)
	case reach.Full:
		answer, err = askFull(q)
	case reach.DNSOverUDP, reach.DNSOverTCP:
		err = askDNS(q)
	case reach.Gateway:
		answer, err = askGateway(q)
	default:
		err = errors.New("unknown kind of question: " + string(q.Kind))
	}
	if err != nil {
		answer.Fault, answer.Detail = faultOf(err), err.Error()
	}
	return answer
}

// faultOf classifies an error of a socket.
func faultOf(err error) reach.Fault {
	var network net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return reach.Refused
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL):
		return reach.NoRoute
	case errors.Is(err, unix.EHOSTUNREACH):
		return reach.NoNeighbor
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return reach.Prohibited
	case errors.Is(err, unix.EMSGSIZE):
		return reach.TooBig
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return reach.Silent
	}
	return reach.Failed
}

// dial dials on the calling thread: the address is literal.
func dial(network string, to netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{Timeout: patience}).Dial(network, to.String())
}

func connect(to netip.AddrPort) error {
	c, err := dial("tcp", to)
	if err != nil {
		return err
	}
	return c.Close()
}

func askTCP(to netip.AddrPort) (reach.Answer, error) {
	c, err := dial("tcp", to)
	if err != nil {
		return reach.Answer{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(io.LimitReader(c, questionLength))
	return answerIn(text), err
}

// answerIn parses "probe-0-a 10.6.0.5\n". Other text is the answer of another program.
func answerIn(text []byte) reach.Answer {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	name, from, ok := bytes.Cut(line, []byte(" "))
	addr, err := netip.ParseAddr(string(from))
	if !ok || err != nil {
		return reach.Answer{}
	}
	return reach.Answer{Server: string(name), From: addr}
}

// askUDP sends questions of the shortest length until one is answered.
func askUDP(to netip.AddrPort) (reach.Answer, error) {
	c, err := dial("udp", to)
	if err != nil {
		return reach.Answer{}, err
	}
	defer c.Close()
	for range udpAttempts {
		var answer reach.Answer
		if answer, err = exchange(c, questionLength, time.Now().Add(patience/udpAttempts)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return answer, err
		}
	}
	return reach.Answer{}, err
}

// exchange sends a question of a length and waits for the answer.
func exchange(c net.Conn, length int, deadline time.Time) (reach.Answer, error) {
	if _, err := c.Write(make([]byte, length)); err != nil {
		return reach.Answer{}, err
	}
	_ = c.SetReadDeadline(deadline)
	b := make([]byte, 1<<16)
	n, err := c.Read(b)
	return answerIn(b[:n]), err
}

// dialWhole opens a socket for unfragmented packets.
func dialWhole(to netip.AddrPort) (net.Conn, error) {
	c, err := dial("udp", to)
	if err != nil {
		return nil, err
	}
	level := unix.IPPROTO_IP
	if to.Addr().Is6() {
		level = unix.IPPROTO_IPV6
	}
	if err := dontFragment(c.(net.PacketConn), level); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// sizes are lengths of packets to try below the full one: the usual MTUs of Ethernet, of tunnels
// (VXLAN 50, IPIP 20, WireGuard 80 bytes) and the least ones (RFC 8200, RFC 791).
var sizes = []int{8951, 8950, 8901, 4352, 1500, 1492, 1480, 1476, 1460, 1450, 1440, 1420, 1400, 1380, 1360, 1320, 1300, 1280, 1200, 1024, 576}

// askFull sends a packet of the full length, at most twice. If it is lost, askFull looks for the largest
// one that passes.
func askFull(q reach.Question) (reach.Answer, error) {
	headers := 20 + 8 // IPv4 and UDP
	if q.To.Addr().Is6() {
		headers = 40 + 8
	}
	c, err := dialWhole(q.To)
	if err != nil {
		return reach.Answer{}, err
	}
	defer c.Close()
	for range 2 {
		var answer reach.Answer
		if answer, err = exchange(c, q.Size-headers, time.Now().Add(time.Second)); err == nil {
			return answer, nil
		}
	}
	return reach.Answer{Largest: largest(q, headers)}, err
}

// largest sends a packet of every length at once, and returns the largest one with an answer, or 0.
func largest(q reach.Question, headers int) int {
	open := map[int]net.Conn{}
	for _, size := range sizes {
		if size >= q.Size || size-headers < questionLength {
			continue
		}
		if c, err := dialWhole(q.To); err == nil {
			defer c.Close()
			if _, err := c.Write(make([]byte, size-headers)); err == nil {
				open[size] = c
			}
		}
	}
	best, deadline, b := 0, time.Now().Add(time.Second), make([]byte, 1<<16)
	for _, size := range slices.Sorted(maps.Keys(open)) {
		_ = open[size].SetReadDeadline(deadline)
		if _, err := open[size].Read(b); err != nil {
			break
		}
		best = size
	}
	return best
}

func askDNS(q reach.Question) error {
	name, err := dnsmessage.NewName(q.Name + ".")
	if err != nil {
		return err
	}
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(os.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packet, err := message.Pack()
	if err != nil {
		return err
	}
	network, attempts := "udp", udpAttempts
	if q.Kind == reach.DNSOverTCP {
		network, attempts = "tcp", 1
		packet = append([]byte{byte(len(packet) >> 8), byte(len(packet))}, packet...)
	}
	c, err := dial(network, q.To)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 1<<16)
	for range attempts {
		if _, err = c.Write(packet); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience / time.Duration(attempts)))
		var n int
		if n, err = c.Read(b); err == nil {
			return checkDNS(b[:n], network == "tcp")
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

// checkDNS accepts an answer to a name that exists. An IPv6-only name has no address of type A.
func checkDNS(b []byte, prefixed bool) error {
	if prefixed {
		b = b[min(2, len(b)):]
	}
	var parser dnsmessage.Parser
	header, err := parser.Start(b)
	if err != nil {
		return err
	}
	if header.RCode != dnsmessage.RCodeSuccess {
		return errors.New("the server answers " + header.RCode.String())
	}
	return nil
}

// askGateway resolves the next hop. A refusal of its port is enough; a silent host has to be
// in the neighbor table.
func askGateway(q reach.Question) (reach.Answer, error) {
	family := familyOf(q.To.Addr())
	if way, err := wayTo(reach.Far(family)); err != nil || way.Dev == "" {
		return reach.Answer{Fault: reach.NoRoute, Detail: "there is no default route"}, err
	}
	err := connect(q.To)
	if fault := faultOf(err); err == nil || fault == reach.Refused {
		return reach.Answer{}, nil
	} else if fault != reach.Silent && fault != reach.Prohibited {
		return reach.Answer{}, err
	}
	neighbors, unread := readNeighbors()
	if unread != nil {
		return reach.Answer{}, unread
	}
	for _, n := range neighbors {
		if n.Addr == q.To.Addr().WithZone("") && n.Dev == q.Dev && n.MAC != "" {
			return reach.Answer{}, nil
		}
	}
	return reach.Answer{}, cmp.Or[error](err, os.ErrDeadlineExceeded)
}
