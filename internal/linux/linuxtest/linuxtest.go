//go:build linux

// Package linuxtest builds small networks for tests from network namespaces:
// machines, wires, and TCP and UDP services and clients. Everything ends with the
// test. It needs root.
package linuxtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Machine is a network namespace of a test.
type Machine struct {
	t    testing.TB
	Name string
	ns   netns.NsHandle
	NL   *netlink.Handle
}

// NewMachine makes a network namespace with its loopback up.
func NewMachine(t testing.TB, name string) *Machine {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (root is needed): %v", err)
	}
	if err := netns.Set(home); err != nil {
		t.Fatal(err)
	}
	_ = home.Close()
	runtime.UnlockOSThread()
	m := &Machine{t: t, Name: name, ns: ns}
	if m.NL, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	// No address is a duplicate here, and tests need not wait for DAD.
	for _, conf := range []string{"all", "default"} {
		m.Sysctl("net/ipv6/conf/"+conf+"/accept_dad", "0")
	}
	m.Up("lo")
	return m
}

// Close removes the machine with its links.
func (m *Machine) Close() {
	if m.ns.IsOpen() {
		m.NL.Close()
		_ = m.ns.Close()
	}
}

// Path is the path of the namespace, valid during the test.
func (m *Machine) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(m.ns)) }

// Do runs f in the machine's namespace. f must not start goroutines that open sockets.
func (m *Machine) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	if err := netns.Set(m.ns); err != nil {
		return err
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Run runs a program in the machine and returns its output.
func (m *Machine) Run(stdin string, env []string, name string, args ...string) (string, error) {
	var out []byte
	err := m.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), env...)
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// Must runs a program and fails the test if the program fails.
func (m *Machine) Must(stdin string, name string, args ...string) string {
	m.t.Helper()
	out, err := m.Run(stdin, nil, name, args...)
	if err != nil {
		m.t.Fatalf("%s: %s %s: %v\n%s", m.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Sysctl sets a parameter below /proc/sys of the machine.
func (m *Machine) Sysctl(path, value string) {
	m.t.Helper()
	if err := m.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }); err != nil {
		m.t.Fatalf("%s: %v", m.Name, err)
	}
}

// Link returns an existing link.
func (m *Machine) Link(name string) netlink.Link {
	m.t.Helper()
	l, err := m.NL.LinkByName(name)
	if err != nil {
		m.t.Fatalf("%s: link %s: %v", m.Name, name, err)
	}
	return l
}

// Up sets a link up.
func (m *Machine) Up(name string) {
	m.t.Helper()
	m.ok(m.NL.LinkSetUp(m.Link(name)))
}

// Wire connects two machines by a veth pair with both ends up.
func Wire(a *Machine, nameA string, b *Machine, nameB string) {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = nameB, netlink.NsFd(b.ns)
	a.ok(a.NL.LinkAdd(v))
	for m, name := range map[*Machine]string{a: nameA, b: nameB} {
		m.Up(name)
	}
}

// Addr gives a link addresses, without waiting for duplicate address detection.
func (m *Machine) Addr(dev string, prefixes ...string) {
	m.t.Helper()
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		m.ok(err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		m.ok(m.NL.AddrAdd(m.Link(dev), a))
	}
}

// Route adds a route next to any other with the same destination, like the plugins
// of containernetworking (pkg/ipam, ConfigureIface). The destination "default"
// takes the family of the gateway.
func (m *Machine) Route(dst, via, dev string) {
	m.t.Helper()
	rt := &netlink.Route{LinkIndex: m.Link(dev).Attrs().Index}
	if via != "" {
		rt.Gw = net.ParseIP(via)
	}
	if dst == "default" {
		dst = "0.0.0.0/0"
		if rt.Gw.To4() == nil {
			dst = "::/0"
		}
	}
	_, n, err := net.ParseCIDR(dst)
	m.ok(err)
	rt.Dst = n
	m.ok(m.NL.RouteAddEcmp(rt))
}

// Sub makes a macvlan or ipvlan child of a link, moves it to a pod and sets it up.
func (m *Machine) Sub(kind, master string, pod *Machine, name string) {
	m.t.Helper()
	if err := m.TrySub(kind, master, pod, name); err != nil {
		m.t.Fatalf("%s: %s child of %s: %v", m.Name, kind, master, err)
	}
}

// TrySub is Sub with an error instead of a failed test, e.g. on a kernel without the
// kind.
func (m *Machine) TrySub(kind, master string, pod *Machine, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace = name, m.Link(master).Attrs().Index, netlink.NsFd(pod.ns)
	var l netlink.Link
	switch kind {
	case "ipvlan":
		l = &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
	case "macvlan":
		l = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	if err := m.NL.LinkAdd(l); err != nil {
		return err
	}
	pod.Up(name)
	return nil
}

// VLAN makes a VLAN interface "parent.id" and sets it up.
func (m *Machine) VLAN(parent string, id int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = fmt.Sprintf("%s.%d", parent, id), m.Link(parent).Attrs().Index
	if err := m.NL.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		return err
	}
	m.Up(attrs.Name)
	return nil
}

// HasKind reports whether the kernel can make links of a kind.
func HasKind(t testing.TB, kind string) bool {
	t.Helper()
	m, other := NewMachine(t, "probe"), NewMachine(t, "probe-peer")
	defer m.Close()
	defer other.Close()
	Wire(m, "a", other, "b")
	var err error
	switch kind {
	case "vlan":
		err = m.VLAN("a", 1)
	case "bond":
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "bond"
		err = m.NL.LinkAdd(netlink.NewLinkBond(attrs))
	default:
		err = m.TrySub(kind, "a", other, "c")
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("kind %s: %v", kind, err)
	}
	return err == nil
}

// Serve answers every TCP connection and UDP packet on port with the machine's
// name and the client's address, e.g. "web 10.0.0.1". The source of a UDP answer is
// the destination of the question, as for any server with several addresses.
func (m *Machine) Serve(port int) {
	m.t.Helper()
	var tcp net.Listener
	var udp4, udp6 net.PacketConn
	m.ok(m.Do(func() (err error) {
		if tcp, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port)); err != nil {
			return err
		}
		if udp4, err = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
			return err
		}
		udp6, err = net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", port))
		return err
	}))
	m.t.Cleanup(func() { tcp.Close(); udp4.Close(); udp6.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", m.Name, seen(c.RemoteAddr()))
			c.Close()
		}
	}()
	p4, p6 := ipv4.NewPacketConn(udp4), ipv6.NewPacketConn(udp6)
	m.ok(p4.SetControlMessage(ipv4.FlagDst, true))
	m.ok(p6.SetControlMessage(ipv6.FlagDst, true))
	b4, b6 := make([]byte, 64), make([]byte, 64)
	go func() {
		for {
			_, cm, from, err := p4.ReadFrom(b4)
			if err != nil {
				return
			}
			_, _ = p4.WriteTo([]byte(m.Name+" "+seen(from)), &ipv4.ControlMessage{Src: cm.Dst}, from)
		}
	}()
	go func() {
		for {
			_, cm, from, err := p6.ReadFrom(b6)
			if err != nil {
				return
			}
			_, _ = p6.WriteTo([]byte(m.Name+" "+seen(from)), &ipv6.ControlMessage{Src: cm.Dst}, from)
		}
	}()
}

func seen(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().Unmap().WithZone("").String()
}

// Ask connects to network ("tcp", "udp") address from the machine and returns the
// answer of the service.
func (m *Machine) Ask(network, address string, timeout time.Duration) (string, error) {
	var c net.Conn
	err := m.Do(func() (err error) {
		c, err = net.DialTimeout(network, address, timeout)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if stream, ok := c.(*net.TCPConn); ok {
		// Close then waits for the last packet of the connection, so that the next
		// capture does not see it.
		if err := stream.SetLinger(1); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(stream)
		return string(answer), err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 128)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func (m *Machine) ok(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatalf("%s: %v", m.Name, err)
	}
}

// Bridge makes a bridge and sets it up.
func (m *Machine) Bridge(name string) {
	m.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	m.ok(m.NL.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	m.Up(name)
}

// Enslave makes a link a port of a bridge.
func (m *Machine) Enslave(port, bridge string) {
	m.t.Helper()
	m.ok(m.NL.LinkSetMaster(m.Link(port), m.Link(bridge)))
}

// Capture counts the frames on a link accepted by match, until stop is called.
func (m *Machine) Capture(dev string, match func(frame []byte) bool) (stop func() int) {
	m.t.Helper()
	var fd int
	m.ok(m.Do(func() (err error) {
		// Protocol 0 receives nothing before the bind; any other would receive the
		// frames of every link.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: m.Link(dev).Attrs().Index})
	}))
	return func() int {
		defer unix.Close(fd)
		count, b := 0, make([]byte, 1<<16)
		for {
			n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
			if err != nil {
				return count
			}
			if match(b[:n]) {
				count++
			}
		}
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
