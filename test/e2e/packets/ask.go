package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The verdicts of a probe.
const (
	answered = "answered"
	refused  = "refused"
	silent   = "silent"
)

const (
	// askLimit is the wait for an answer. Policies drop, so a denied probe takes all of it.
	askLimit = 2 * time.Second
	// reachLimit is the wait for a connection that should open.
	reachLimit = 10 * time.Second
	// repeats is the number of datagrams of one question. The first ones may wait for address resolution.
	repeats = 3
)

func parseTarget(text string) (target, error) {
	protocol, address, _ := strings.Cut(text, "/")
	to, err := netip.ParseAddrPort(address)
	if err != nil || (protocol != "tcp" && protocol != "udp" && protocol != "sctp") {
		return target{}, fmt.Errorf("target %q: want tcp, udp or sctp with an address, e.g. tcp/10.6.0.1:80", text)
	}
	return target{protocol, to}, nil
}

// ask prints the verdict for each target, in their order.
func ask(ctx context.Context, texts []string) error {
	verdicts := make([]string, len(texts))
	var asking sync.WaitGroup
	for i, text := range texts {
		to, err := parseTarget(text)
		if err != nil {
			return err
		}
		asking.Go(func() { verdicts[i] = to.ask(ctx, askLimit, repeats) })
	}
	asking.Wait()
	for i, text := range texts {
		fmt.Println(text, verdicts[i])
	}
	return nil
}

// ask sends up to that many packets to the target, from a new port, until one is answered. TCP repeats by itself.
func (t target) ask(ctx context.Context, limit time.Duration, packets int) string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch t.protocol {
	case "tcp":
		return t.connect(ctx)
	case "sctp":
		return t.initiate(ctx, limit, packets)
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "udp", t.AddrPort.String())
	if err != nil {
		return verdictOf(err)
	}
	defer socket.Close()
	return t.exchange(socket, limit, packets, []byte("who are you?"), func([]byte) bool { return true })
}

func (t target) connect(ctx context.Context) string {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", t.AddrPort.String())
	if err != nil {
		return verdictOf(err)
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	_ = connection.SetReadDeadline(deadline)
	if _, err := connection.Read(make([]byte, 64)); err != nil {
		return verdictOf(err)
	}
	return answered
}

// reach opens a connection to a server that may wait for its client to speak.
func reach(ctx context.Context, to string) error {
	dialer := net.Dialer{Timeout: reachLimit}
	connection, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	return connection.Close()
}

// exchange sends the packet until a packet that fits comes back.
func (t target) exchange(socket net.Conn, limit time.Duration, packets int, packet []byte, fits func([]byte) bool) string {
	answer := make([]byte, 1500)
	for range packets {
		if _, err := socket.Write(packet); err != nil {
			return verdictOf(err)
		}
		_ = socket.SetReadDeadline(time.Now().Add(limit / time.Duration(packets)))
		for {
			n, err := socket.Read(answer)
			if err == nil && fits(answer[:n]) {
				return answered
			}
			if verdictOf(err) == refused {
				return refused
			}
			if err != nil {
				break
			}
		}
	}
	return silent
}

// verdictOf returns silent for a timeout, and for what else a filter may cause at its sender: EPERM of the output hook.
func verdictOf(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return answered
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, unix.EPERM), errors.Is(err, unix.EHOSTUNREACH):
		return silent
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EACCES):
		return refused
	}
	return strings.ReplaceAll(err.Error(), " ", "-")
}
