package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

const (
	// protocolAll is ETH_P_ALL in network order.
	protocolAll = 0x0300
	// lastFrame is the name of the honest frame after the forged ones.
	lastFrame = "the last frame"
)

// ways are the options of packet sockets to send with, by name.
var ways = map[string][]int{"": nil, " around the queue": {unix.PACKET_QDISC_BYPASS}}

// forge sends each forged frame with the token and its name, and prints which of them may pass. A last frame with the
// pod's own address ends the sequence.
func forge(device, token, ipv4, ipv6, permitted string) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	sender := linuxtest.Sender{MAC: link.HardwareAddr, IPv4: ipv4, IPv6: ipv6, Permitted: permitted}
	if permitted == "" {
		sender.Permitted = "192.0.2.99"
	}
	for way, options := range ways {
		socket, err := packetSocket(link.Index, options)
		if err != nil {
			return err
		}
		for _, f := range sender.Forgeries() {
			passes := f.Passes && (permitted != "" || f.Name != linuxtest.PermittedForgery)
			fmt.Printf("%v %s%s\n", passes, f.Name, way)
			if err := send(socket, f.Frame, token, f.Name+way); err != nil {
				return fmt.Errorf("%s%s: %w", f.Name, way, err)
			}
		}
		if err := unix.Close(socket); err != nil {
			return err
		}
	}
	socket, err := packetSocket(link.Index, nil)
	if err != nil {
		return err
	}
	return send(socket, linuxtest.IPv4Frame(link.HardwareAddr, ipv4), token, lastFrame)
}

// send writes a frame with the token and a name at its end. A filter may refuse it.
func send(socket int, frame []byte, token, name string) error {
	_, err := unix.Write(socket, append(frame, token+":"+name+";"...))
	if err == unix.ENOBUFS || err == unix.EPERM {
		return nil
	}
	return err
}

func packetSocket(index int, options []int) (int, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, option := range options {
		if err := unix.SetsockoptInt(socket, unix.SOL_PACKET, option, 1); err != nil {
			return -1, err
		}
	}
	return socket, unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocolAll, Ifindex: index})
}

// hear prints the names in the frames with the token on any interface, each at most once, up to the last frame.
func hear(ctx context.Context, token string) error {
	socket, err := packetSocket(0, nil)
	if err != nil {
		return err
	}
	// So that the loop notices the end of ctx.
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: int64(100 * time.Millisecond / time.Microsecond)}); err != nil {
		return err
	}
	fmt.Println("listening")
	heard := map[string]bool{}
	for b := make([]byte, 1<<16); ctx.Err() == nil; {
		n, _, err := unix.Recvfrom(socket, b, 0)
		if err == unix.EAGAIN || err == unix.EINTR || err == unix.ENETDOWN {
			continue
		} else if err != nil {
			return err
		}
		_, rest, ours := bytes.Cut(b[:n], []byte(token+":"))
		name, _, whole := bytes.Cut(rest, []byte(";"))
		if !ours || !whole || heard[string(name)] {
			continue
		}
		heard[string(name)] = true
		fmt.Println("heard", string(name))
		if string(name) == lastFrame {
			return nil
		}
	}
	return nil
}
