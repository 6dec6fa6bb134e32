//go:build kernel

package coordinator

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// guardedPod is a pod with antiSpoof and the exception 172.31.16.99.
func guardedPod(t *testing.T, kind string) *plant {
	t.Helper()
	p := newPlant(t)
	reply := guideReply()
	reply.Config.AntiSpoof, reply.Sources = true, []netip.Prefix{netip.MustParsePrefix("172.31.16.99/32")}
	p.pod.socket = fakeAgent(t, reply)
	p.pod.attach(kind, "ens5", "eth0", net0, gw0)
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), nil)
	return p
}

// packetSocket opens a packet socket of a machine for one interface.
func packetSocket(t *testing.T, m *linuxtest.Machine, dev string, options ...int) (fd int) {
	t.Helper()
	err := m.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		for _, o := range options {
			if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, o, 1); err != nil {
				return err
			}
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: m.Link(dev).Attrs().Index}) // ETH_P_ALL
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// received reports whether a frame with the text arrives before one with the end.
func received(t *testing.T, fd int, text, end []byte) bool {
	t.Helper()
	b := make([]byte, 2048)
	for found := false; ; {
		n, _, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			t.Fatalf("wait for the last frame: %v", err)
		}
		found = found || bytes.Contains(b[:n], text)
		if bytes.Contains(b[:n], end) {
			return found
		}
	}
}

// Packet sockets do not get around the guard, with or without queueing disciplines.
func TestPodSendsFromOwnAddressesOnly(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		p := guardedPod(t, kind)
		own := p.pod.Link("eth0").Attrs().HardwareAddr
		sender := linuxtest.Sender{MAC: own, IPv4: bare(net0[0]), IPv6: bare(net0[1]), Permitted: "172.31.16.99"}
		// The tap is before the bridge of the test, which drops malformed IP packets
		// (br_netfilter).
		in := packetSocket(t, p.node, "ens5")
		if err := unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
		for way, options := range map[string][]int{"packet socket": nil, "packet socket around the queue": {unix.PACKET_QDISC_BYPASS}} {
			out := packetSocket(t, p.pod.Machine, "eth0", options...)
			honest := linuxtest.IPv4Frame(own, sender.IPv4)
			for i, f := range sender.Forgeries() {
				text, end := []byte(way+f.Name), binary.BigEndian.AppendUint32([]byte(way+"end"), uint32(i))
				for _, b := range [][]byte{append(f.Frame, text...), append(slices.Clone(honest), end...)} {
					if _, err := unix.Write(out, b); err != nil && err != unix.ENOBUFS && err != unix.EPERM {
						t.Fatalf("%s: %v", f.Name, err)
					}
				}
				if got := received(t, in, text, end); got != f.Passes {
					t.Errorf("%s, %s: passes %v, want %v", way, f.Name, got, f.Passes)
				}
			}
		}
	})
}

// The traffic of an honest pod passes: to a peer and to the node, and back.
func TestGuardedPodWorks(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		p := guardedPod(t, kind)
		for i := range peers0 {
			for _, network := range []string{"tcp", "udp"} {
				own := bare(net0[i])
				for from, to := range map[*linuxtest.Machine]string{p.peer0: own, p.node: own} {
					if got, err := from.Ask(network, net.JoinHostPort(to, "8080"), askTimeout); err != nil {
						t.Errorf("%s from %s: %q, %v", network, from.Name, got, err)
					}
				}
				for _, to := range []string{peers0[i], nodes[i], clients[i]} {
					if got, err := p.pod.Ask(network, net.JoinHostPort(to, "8080"), askTimeout); err != nil {
						t.Errorf("%s to %s: %q, %v", network, to, got, err)
					}
				}
			}
		}
		p.pod.must("CHECK", "eth0", p.pod.result("eth0", net0, gw0), nil)
	})
}

// veth0 is guarded, too: the node must not get packets of other pods.
func TestGuardCoversVeth(t *testing.T) {
	p := guardedPod(t, "macvlan")
	own := p.pod.Link("veth0").Attrs().HardwareAddr
	out := packetSocket(t, p.pod.Machine, "veth0")
	in := packetSocket(t, p.node, p.hostEnd())
	if err := unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	for source, passes := range map[string]bool{bare(net0[0]): true, "172.31.28.18": false} {
		for _, f := range [][]byte{append(linuxtest.IPv4Frame(own, source), "from "+source...), append(linuxtest.IPv4Frame(own, bare(net0[0])), "end "+source...)} {
			if _, err := unix.Write(out, f); err != nil && err != unix.ENOBUFS && err != unix.EPERM {
				t.Fatal(err)
			}
		}
		if got := received(t, in, []byte("from "+source), []byte("end "+source)); got != passes {
			t.Errorf("from %s: passes %v, want %v", source, got, passes)
		}
	}
}

// hostEnd is the node's end of the pod's pair.
func (p *plant) hostEnd() string {
	links, _ := p.node.NL.LinkList()
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "spv") {
			return l.Attrs().Name
		}
	}
	return ""
}

func TestGuardsFollowAttachments(t *testing.T) {
	p := guardedPod(t, "macvlan")
	result := p.pod.result("eth0", net0, gw0)
	p.pod.must("ADD", "eth0", result, nil)
	p.pod.attach("macvlan", "ens6", "net1", net1, gw1)
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), nil)
	for _, nic := range []string{"eth0", "net1"} {
		addrs, gateways := net0, gw0
		if nic == "net1" {
			addrs, gateways = net1, gw1
		}
		p.pod.must("CHECK", nic, p.pod.result(nic, addrs, gateways), nil)
		if got, err := p.pod.Ask("tcp", net.JoinHostPort(map[string]string{"eth0": peers0[0], "net1": peers1[0]}[nic], "8080"), askTimeout); err != nil {
			t.Errorf("by %s: %q, %v", nic, got, err)
		}
	}
	if got, err := p.node.Ask("tcp", net.JoinHostPort(bare(net1[0]), "8080"), askTimeout); err != nil {
		t.Errorf("from the node to net1: %q, %v", got, err)
	}
	p.pod.Must("", "nft", "delete chain netdev spiderpool-guard egress-net1")
	if out, err := p.pod.call("CHECK", "net1", p.pod.result("net1", net1, gw1), nil); err == nil || !strings.Contains(out, "+ guard net1") {
		t.Errorf("CHECK without the guard: %v %s", err, out)
	}
	p.pod.must("ADD", "net1", p.pod.result("net1", net1, gw1), nil)
	p.pod.must("DEL", "net1", p.pod.result("net1", net1, gw1), nil)
	p.pod.must("CHECK", "eth0", result, nil)
	if out := p.pod.Must("", "nft", "list", "ruleset"); strings.Contains(out, "egress-net1") {
		t.Errorf("after DEL of net1:\n%s", out)
	}
}

func TestForbiddenExceptionFailsAdd(t *testing.T) {
	p := newPlant(t)
	reply := guideReply()
	reply.SourcesFault = "annotation ipam.spidernet.io/source-addresses: the namespace does not permit it"
	p.pod.socket = fakeAgent(t, reply)
	p.pod.attach("macvlan", "ens5", "eth0", net0, gw0)
	if out, err := p.pod.call("ADD", "eth0", p.pod.result("eth0", net0, gw0), m{"antiSpoof": true}); err == nil || !strings.Contains(out, "the namespace does not permit it") {
		t.Errorf("ADD: %v %s", err, out)
	}
	p.pod.must("ADD", "eth0", p.pod.result("eth0", net0, gw0), nil) // antiSpoof is off
	if out := p.pod.Must("", "nft", "list", "ruleset"); strings.Contains(out, "spiderpool-guard") {
		t.Errorf("a pod without antiSpoof has\n%s", out)
	}
}
