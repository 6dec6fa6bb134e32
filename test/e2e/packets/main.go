// Command packets sends and receives the packets of the end-to-end tests, in pods and on nodes.
//
//	packets serve PORT…                            answer on TCP, UDP and SCTP until the end
//	packets ask TARGET…                            print which targets answer, e.g. tcp/10.6.0.1:80
//	packets reach ADDR:PORT                        fail unless a TCP connection opens
//	packets watch [-for D] TARGET=VERDICT…         send a probe every 10 ms and count the wrong verdicts
//	packets start TARGET=VERDICT…                  watch in the background, until packets stop
//	packets stop                                   print the counts
//	packets sink PORT                              measure the bandwidth of each TCP connection
//	packets push [-from ADDR] [-for D] ADDR:PORT   send to a sink and print bits per second
//	packets forge [-permit ADDR] DEVICE TOKEN V4 V6   send frames of other addresses, with a token inside
//	packets hear TOKEN                             print the frames with the token that arrive
//
// SCTP is the first packet of an association and its answer, by raw sockets. So the kernel needs no SCTP.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "packets:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want a command: serve, ask, reach, watch, start, stop, sink, push, forge or hear")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	from := flags.String("from", "", "push: source address")
	limit := flags.Duration("for", 0, "watch, push: duration")
	permit := flags.String("permit", "", "forge: a further IPv4 address that the pod may use")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	rest := flags.Args()
	switch name := args[0]; {
	case name == "serve" && len(rest) > 0:
		return serve(ctx, rest)
	case name == "ask" && len(rest) > 0:
		return ask(ctx, rest)
	case name == "reach" && len(rest) == 1:
		return reach(ctx, rest[0])
	case name == "watch" && len(rest) > 0:
		return watch(ctx, *limit, rest)
	case name == "start" && len(rest) > 0:
		return startWatch(rest)
	case name == "stop" && len(rest) == 0:
		return stopWatch(ctx)
	case name == "sink" && len(rest) == 1:
		return sink(ctx, rest[0])
	case name == "push" && len(rest) == 1:
		return push(ctx, *from, max(*limit, time.Second), rest[0])
	case name == "forge" && len(rest) == 4:
		return forge(rest[0], rest[1], rest[2], rest[3], *permit)
	case name == "hear" && len(rest) == 1:
		return hear(ctx, rest[0])
	}
	return fmt.Errorf("%q: want a command with its arguments, see the source", args)
}

// target is an address and port of a protocol, e.g. tcp/10.6.0.1:80.
type target struct {
	protocol string
	netip.AddrPort
}

func (t target) String() string { return t.protocol + "/" + t.AddrPort.String() }

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	return uint16(port), err
}
