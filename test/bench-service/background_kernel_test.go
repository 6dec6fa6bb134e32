//go:build kernel

package benchservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/rpc/hubble"
)

// The load in the background is TCP connections without data, besides those that are measured.
const (
	backgroundPort    = 9001
	backgroundThreads = 8
)

// acceptBackground ends each connection at once.
func acceptBackground() error {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Bind(l, &unix.SockaddrInet4{Port: backgroundPort}), unix.Listen(l, 4096))
	for err == nil {
		var fd int
		if fd, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err == nil {
			unix.Close(fd)
		}
	}
	return err
}

// openBackground opens a number of connections a second until the end of its input, and prints how many there were.
func openBackground(o order, rate int) {
	var opened atomic.Uint64
	var ended atomic.Bool
	var threads sync.WaitGroup
	for range backgroundThreads {
		threads.Go(func() {
			pause := time.Duration(backgroundThreads) * time.Second / time.Duration(rate)
			for next := time.Now(); !ended.Load(); next = next.Add(pause) {
				time.Sleep(time.Until(next))
				if fd, err := o.dial(once); err == nil {
					unix.Close(fd)
					opened.Add(1)
				}
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	ended.Store(true)
	threads.Wait()
	fmt.Println(opened.Load())
}

// follow reads the flows of a unix socket until the end of its input.
func follow(socket string) error {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	flows, err := observerpb.NewObserverClient(conn).GetFlows(ctx, &observerpb.GetFlowsRequest{Follow: true})
	for err == nil {
		_, err = flows.Recv()
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// background opens connections from the client to the server. stop returns how many a second there were.
func (n *observed) background(rate int) (stop func() float64) {
	if rate == 0 {
		return func() float64 { return 0 }
	}
	began := time.Now()
	end := n.helper(n.client, "background "+strconv.Itoa(rate))
	return func() float64 {
		var opened float64
		if _, err := fmt.Sscan(end(), &opened); err != nil {
			n.tb.Fatal(err)
		}
		return opened / time.Since(began).Seconds()
	}
}

// helper runs this program with another load, until stop, which returns its output.
func (n *observed) helper(on *linuxtest.Machine, load string) (stop func() string) {
	n.tb.Helper()
	cmd := pinned(lastCPU())
	cmd.Args[2] = "0-" + strconv.Itoa(lastCPU())
	cmd.Env, cmd.Stderr = append(os.Environ(), loadVariable+"="+load), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		n.tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.tb.Fatal(err)
	}
	if err := on.Do(cmd.Start); err != nil {
		n.tb.Fatal(err)
	}
	return func() string {
		_ = in.Close()
		text, err := io.ReadAll(out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			n.tb.Fatalf("%s: %v", load, err)
		}
		return string(text)
	}
}

// serveFlows serves the ring as an agent does.
func (n *observed) serveFlows() {
	n.ring = flow.NewRing(4095)
	n.socket = filepath.Join(n.tb.(*testing.B).TempDir(), "hubble.sock")
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", n.socket)
	if err != nil {
		n.tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := &hubble.Server{Observer: hubble.NewObserver(n.ring, func(context.Context, *flow.Flow) {}, hubble.About{Node: "n1"})}
	go func() { done <- server.Serve(ctx, listener, nil) }()
	n.tb.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			n.tb.Error(err)
		}
	})
}

// keep puts events into the ring, with the ends that an agent knows.
func (n *observed) keep(events []flow.Event, lost uint64) {
	n.room = n.room[:0]
	if lost > 0 {
		n.room = append(n.room, flow.Flow{Event: flow.Event{Time: time.Now()}, Lost: lost})
	}
	for i := range events {
		n.room = append(n.room, flow.Flow{Event: events[i], Opener: &n.end, Target: &n.end})
	}
	n.ring.Add(n.room...)
	n.events.Add(uint64(len(events)))
	n.lost.Add(lost)
}

// runHelper runs the load of a helper.
func runHelper(load string) error {
	var rate int
	var socket string
	o := order{Address: [4]byte{10, 6, 0, 3}, Port: backgroundPort}
	switch {
	case load == "accept":
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // until the end of the benchmark
			os.Exit(0)
		}()
		return acceptBackground()
	case scans(load, "background %d", &rate):
		openBackground(o, rate)
	case scans(load, "follow %s", &socket):
		return follow(socket)
	}
	return nil
}

func scans(text, format string, to any) bool {
	_, err := fmt.Sscanf(text, format, to)
	return err == nil
}
