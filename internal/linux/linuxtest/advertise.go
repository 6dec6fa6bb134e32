//go:build linux

package linuxtest

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// Advertise sends router advertisements from a link, as a router does, until the
// host has learned its default route. It repeats them because a new interface can
// miss some. The host generates an address in the prefix, a /64.
func (m *Machine) Advertise(dev, prefix string, host *Machine) {
	m.t.Helper()
	m.Await("fe80:", "ip", "-6", "addr", "show", "dev", dev, "-tentative")
	var out string
	for began := time.Now(); time.Since(began) < eventually; {
		m.ok(m.Do(func() error { return advertise(dev, prefix) }))
		if out = host.Must("", "ip", "-6", "route", "show", "default"); strings.Contains(out, "proto ra") {
			return
		}
	}
	m.t.Fatalf("%s learned no default route: %q", host.Name, out)
}

func advertise(dev, prefix string) error {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	conn, _, err := ndp.Listen(ifi, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.WriteTo(&ndp.RouterAdvertisement{
		CurrentHopLimit: 64, RouterLifetime: time.Hour,
		Options: []ndp.Option{&ndp.PrefixInformation{
			PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
			ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: netip.MustParseAddr(prefix),
		}},
	}, nil, netip.IPv6LinkLocalAllNodes())
}

// Send sends a datagram through a link to a unicast or multicast address.
func (m *Machine) Send(dev, to string, port int) error {
	return m.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		addr := netip.MustParseAddr(to)
		domain := unix.AF_INET
		if addr.Is6() {
			domain = unix.AF_INET6
		}
		s, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		if err := errors.Join(unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
			unix.BindToDevice(s, dev)); err != nil {
			return err
		}
		if addr.Is6() {
			return unix.Sendto(s, []byte("?"), 0, &unix.SockaddrInet6{Port: port, Addr: addr.As16(), ZoneId: uint32(ifi.Index)})
		}
		return unix.Sendto(s, []byte("?"), 0, &unix.SockaddrInet4{Port: port, Addr: addr.As4()})
	})
}

// eventually bounds the wait for an expected event.
const eventually = 10 * time.Second

// Await runs a program until its output holds text.
func (m *Machine) Await(text string, name string, args ...string) {
	m.t.Helper()
	var out string
	for began := time.Now(); time.Since(began) < eventually; {
		if out = m.Must("", name, args...); strings.Contains(out, text) {
			return
		}
	}
	m.t.Fatalf("%s: %s %s shows no %q:\n%s", m.Name, name, strings.Join(args, " "), text, out)
}
