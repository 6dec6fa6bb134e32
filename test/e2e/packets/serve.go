package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// serve answers each TCP connection, UDP datagram and SCTP association on the ports with the name of the host. It
// returns after the first error.
func serve(ctx context.Context, texts []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	broken := make(chan error)
	var ports []uint16
	for _, text := range texts {
		port, err := parsePort(text)
		if err != nil {
			return err
		}
		ports = append(ports, port)
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { broken <- answerConnections(listener, name) }()
	}
	if err := serveAddresses(name, ports, broken); err != nil {
		return err
	}
	fmt.Println("serving", texts)
	select {
	case <-ctx.Done():
		return nil
	case err := <-broken:
		return err
	}
}

// serveAddresses answers datagrams and associations. Each address has sockets of its own, so the source of an answer is
// the destination of its question.
func serveAddresses(name string, ports []uint16, broken chan<- error) error {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address.String())
		if err != nil {
			return err
		}
		own := prefix.Addr()
		if !own.IsGlobalUnicast() {
			continue
		}
		for _, port := range ports {
			socket, err := net.ListenPacket("udp", netip.AddrPortFrom(own, port).String())
			if err != nil {
				return err
			}
			go func() { broken <- answerDatagrams(socket, name) }()
		}
		socket, err := net.ListenPacket(rawSCTP(own), own.String())
		if err != nil {
			return fmt.Errorf("SCTP: %w", err)
		}
		go func() { broken <- answerAssociations(socket, ports) }()
	}
	return nil
}

func answerConnections(listener net.Listener, name string) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = connection.Write([]byte(name))
			_ = connection.Close()
		}()
	}
}

func answerDatagrams(socket net.PacketConn, name string) error {
	question := make([]byte, 1500)
	for {
		_, from, err := socket.ReadFrom(question)
		if err != nil {
			return err
		}
		// A filter may refuse the answer.
		_, _ = socket.WriteTo([]byte(name), from)
	}
}
