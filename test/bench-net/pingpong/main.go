// Command pingpong measures the latency of small requests over IPv4, one at a time.
//
//	pingpong serve ADDRESS:PORT              answer over TCP and UDP
//	pingpong tcp|udp ADDRESS:PORT DURATION   send requests and write the figures as JSON
//
// It uses blocking sockets, so that the measurement excludes the Go runtime's network
// poller.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// size is the length of a request and of its reply in bytes.
	size = 64
	// patience is the limit for a reply.
	patience = 5 * time.Second
)

// figures are the client's results.
type figures struct {
	PerS  float64 `json:"per_s"`
	P50US float64 `json:"p50_us"`
	P99US float64 `json:"p99_us"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pingpong:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	kinds := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}
	if len(args) < 2 {
		return errors.New("usage: serve ADDRESS:PORT, or tcp|udp ADDRESS:PORT DURATION")
	}
	address, err := netip.ParseAddrPort(args[1])
	if err != nil || !address.Addr().Is4() {
		return fmt.Errorf("%s: want an IPv4 address and a port", args[1])
	}
	socket := &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())}
	kind, client := kinds[args[0]]
	switch {
	case args[0] == "serve" && len(args) == 2:
		return serve(socket)
	case client && len(args) == 3:
		duration, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		time.AfterFunc(duration+patience, func() {
			fmt.Fprintf(os.Stderr, "pingpong: no reply from %s over %s\n", address, args[0])
			os.Exit(1)
		})
		latencies, err := ask(kind, socket, duration)
		if err != nil {
			return fmt.Errorf("%s over %s: %w", address, args[0], err)
		}
		return json.NewEncoder(os.Stdout).Encode(figuresOf(latencies))
	}
	return fmt.Errorf("%q: usage: serve ADDRESS:PORT, or tcp|udp ADDRESS:PORT DURATION", args)
}

// serve answers over TCP and UDP until the first error.
func serve(at unix.Sockaddr) error {
	failed := make(chan error)
	go func() { failed <- serveTCP(at) }()
	go func() { failed <- serveUDP(at) }()
	return <-failed
}

func serveTCP(at unix.Sockaddr) error {
	listener, err := bound(unix.SOCK_STREAM, at)
	if err != nil {
		return err
	}
	if err := unix.Listen(listener, 16); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		connection, _, err := unix.Accept(listener)
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go func() {
			defer unix.Close(connection)
			_ = echo(connection) // a failed connection concerns only its client, which notices
		}()
	}
}

// echo sends every received byte back until the end.
func echo(connection int) error {
	if err := unix.SetsockoptInt(connection, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	buffer := make([]byte, size)
	for {
		n, err := unix.Read(connection, buffer)
		if err != nil || n == 0 {
			return err
		}
		if _, err := unix.Write(connection, buffer[:n]); err != nil {
			return err
		}
	}
}

func serveUDP(at unix.Sockaddr) error {
	socket, err := bound(unix.SOCK_DGRAM, at)
	if err != nil {
		return err
	}
	buffer := make([]byte, size)
	for {
		n, from, err := unix.Recvfrom(socket, buffer, 0)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if err := unix.Sendto(socket, buffer[:n], 0, from); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// bound returns a socket of the given kind at the address.
func bound(kind int, at unix.Sockaddr) (int, error) {
	socket, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(socket, at); err != nil {
		return 0, fmt.Errorf("bind: %w", err)
	}
	return socket, nil
}

// ask sends requests one at a time for the duration and returns the latency of each
// reply.
func ask(kind int, server unix.Sockaddr, duration time.Duration) ([]time.Duration, error) {
	socket, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(socket)
	if err := unix.Connect(socket, server); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	// We read the clock once per request: in User Mode Linux it costs a system call.
	latencies := make([]time.Duration, 0, 1<<20)
	buffer := make([]byte, size)
	start := time.Now()
	for now, last := time.Duration(0), time.Duration(0); len(latencies) == 0 || now < duration; last = now {
		if err := request(socket, buffer); err != nil {
			return nil, err
		}
		now = time.Since(start)
		latencies = append(latencies, now-last)
	}
	return latencies, nil
}

// request sends the buffer and fills it with the reply.
func request(socket int, buffer []byte) error {
	if _, err := unix.Write(socket, buffer); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for got := 0; got < len(buffer); {
		n, err := unix.Read(socket, buffer[got:])
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		if n == 0 {
			return errors.New("receive: the server closed the connection")
		}
		got += n
	}
	return nil
}

// figuresOf summarizes the latencies of consecutive requests.
func figuresOf(latencies []time.Duration) figures {
	var all time.Duration
	for _, l := range latencies {
		all += l
	}
	slices.Sort(latencies)
	return figures{PerS: float64(len(latencies)) / all.Seconds(), P50US: percentile(latencies, 0.50), P99US: percentile(latencies, 0.99)}
}

// percentile returns the smallest latency in µs that covers the share q of the sorted
// latencies.
func percentile(sorted []time.Duration, q float64) float64 {
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[max(i, 0)].Nanoseconds()) / 1000
}
