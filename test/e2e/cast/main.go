// Command cast sends and receives multicast and broadcast in pods of the end-to-end
// test.
//
//	cast listen              print received datagrams with their senders
//	cast send ADDRESS TEXT   send a datagram, e.g. to 239.255.6.1:7001
package main

import (
	"fmt"
	"net"
	"os"
)

// device is the interface that joins the groups.
const device = "eth0"

// groups are the multicast groups joined by listen. anyone is its address for
// broadcasts.
var (
	groups = []string{"239.255.6.1:7001", "[ff05::6:1]:7002"}
	anyone = &net.UDPAddr{Port: 7003}
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cast:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "listen":
		return listen()
	case len(args) == 3 && args[0] == "send":
		return send(args[1], args[2])
	}
	return fmt.Errorf("%q: want listen, or send ADDRESS TEXT", args)
}

// listen returns after an error on any socket.
func listen() error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	broken := make(chan error)
	for _, group := range groups {
		addr, err := net.ResolveUDPAddr("udp", group)
		if err != nil {
			return err
		}
		socket, err := net.ListenMulticastUDP("udp", link, addr)
		if err != nil {
			return fmt.Errorf("join %s: %w", group, err)
		}
		go func() { broken <- report(socket) }()
	}
	socket, err := net.ListenUDP("udp4", anyone)
	if err != nil {
		return err
	}
	go func() { broken <- report(socket) }()
	return <-broken
}

// report writes a line for each datagram.
func report(socket *net.UDPConn) error {
	buffer := make([]byte, 1500)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return err
		}
		fmt.Printf("%s says %s\n", from.Addr().Unmap(), buffer[:n])
	}
}

func send(to, text string) error {
	socket, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	_, err = socket.Write([]byte(text))
	return err
}
