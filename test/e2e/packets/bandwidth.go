package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// warmUp is the beginning of a transfer that is not measured.
const warmUp = 2 * time.Second

// sink reads connections. At the end of each, it answers with the measured rate in bits per second.
func sink(ctx context.Context, port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_ = binary.Write(connection, binary.BigEndian, measure(connection))
		}()
	}
}

// measure reads up to the end and returns the bits per second after the warm-up.
func measure(from io.Reader) uint64 {
	b := make([]byte, 256<<10)
	var bytes uint64
	var start, last time.Time
	first := time.Now()
	for {
		n, err := from.Read(b)
		if n > 0 {
			last = time.Now()
			switch {
			case !start.IsZero():
				bytes += uint64(n)
			case last.Sub(first) > warmUp:
				start = last
			}
		}
		if err != nil {
			break
		}
	}
	if start.IsZero() || !last.After(start) {
		return 0
	}
	return uint64(float64(bytes) * 8 / last.Sub(start).Seconds())
}

// push sends to a sink for the warm-up and the duration, and prints the rate that the sink measured.
func push(ctx context.Context, from string, limit time.Duration, to string) error {
	var dialer net.Dialer
	if from != "" {
		source, err := netip.ParseAddr(from)
		if err != nil {
			return err
		}
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	connection, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer connection.Close()
	end := time.Now().Add(warmUp + limit)
	if err := connection.SetWriteDeadline(end); err != nil {
		return err
	}
	for b := make([]byte, 64<<10); ; {
		if _, err = connection.Write(b); err != nil {
			break
		}
	}
	if time.Now().Before(end) {
		return err
	}
	if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var rate uint64
	if err := binary.Read(connection, binary.BigEndian, &rate); err != nil {
		return err
	}
	fmt.Println(rate)
	return nil
}
