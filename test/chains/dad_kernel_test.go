//go:build kernel

package chains

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// detectForLong makes the kernel detect duplicates for 100 s on each new interface of
// the pod. A main plugin gives up earlier.
func detectForLong(pod *linuxtest.Machine) {
	pod.Sysctl("net/ipv6/conf/default/accept_dad", "1")
	pod.Sysctl("net/ipv6/conf/default/dad_transmits", "100")
}

// isDetection matches a neighbor solicitation without a sender address (RFC 4862,
// section 5.4.2).
func isDetection(frame []byte) bool {
	const ethernet, ipv6, icmpSolicitation = 14, 40, 135
	if len(frame) < ethernet+ipv6+1 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IPV6 {
		return false
	}
	sender := frame[ethernet+8 : ethernet+24]
	return frame[ethernet+6] == unix.IPPROTO_ICMPV6 && frame[ethernet+ipv6] == icmpSolicitation && [16]byte(sender) == [16]byte{}
}

// askGateway sends one packet to the gateway's server and returns the answer. A new
// address is tentative until the kernel's worker has run: microseconds on an idle
// machine, and 100 s if it detects duplicates.
func askGateway(pod *linuxtest.Machine) (string, error) {
	pod.Await("fd20::10", "ip", "-6", "address", "show", "dev", "eth0", "-tentative")
	return pod.Ask("udp", "[fd20::1]:4000", 5*time.Second)
}

func TestPodUsesIPv6InFirstPacket(t *testing.T) {
	eachMain(t, func(n *network) {
		n.other.Serve(4000)
		pod, runtime := newPod(n.T)
		detectForLong(pod)
		detections := n.other.Capture(n.dev, isDetection)
		if _, err := n.addTo(newDetecting(wire.Detection{}), runtime); err != nil {
			n.Fatal(err)
		}
		answer, err := askGateway(pod)
		if err != nil || !strings.Contains(answer, "fd20::10") {
			n.Errorf("the gateway answers %q, %v", answer, err)
		}
		if count := detections(); count != 0 {
			n.Errorf("the kernel asked %d times for the pod's addresses", count)
		}
		if state := pod.Must("", "ip", "-6", "address", "show", "dev", "eth0"); strings.Contains(state, "tentative") {
			n.Errorf("detection goes on:\n%s", state)
		}
	})
}

// announces returns a filter for gratuitous ARP and for unsolicited neighbor
// advertisements of an address.
func announces(addr netip.Addr) func(frame []byte) bool {
	const ethernet, arpSender, arpTarget, ipv6, target, icmpAdvertisement = 14, 14, 24, 40, 8, 136
	return func(frame []byte) bool {
		kind, b := binary.BigEndian.Uint16(frame[12:]), frame[ethernet:]
		if addr.Is4() {
			a := addr.As4()
			return kind == unix.ETH_P_ARP && [4]byte(b[arpSender:]) == a && [4]byte(b[arpTarget:]) == a
		}
		return kind == unix.ETH_P_IPV6 && len(b) >= ipv6+target+16 && b[6] == unix.IPPROTO_ICMPV6 && b[ipv6] == icmpAdvertisement &&
			netip.AddrFrom16([16]byte(b[ipv6+target:])) == addr && netip.AddrFrom16([16]byte(b[24:])) == netip.IPv6LinkLocalAllNodes()
	}
}

func TestAddressesAreAnnounced(t *testing.T) {
	for name, detect := range map[string]wire.Detection{"without detection": {}, "with detection": {IPConflict: true}} {
		t.Run(name, func(t *testing.T) {
			eachMain(t, func(n *network) {
				n.other.Serve(4000)
				v4 := n.other.Capture(n.dev, announces(netip.MustParseAddr("10.20.0.10")))
				v6 := n.other.Capture(n.dev, announces(netip.MustParseAddr("fd20::10")))
				pod, runtime := newPod(n.T)
				if _, err := n.addTo(newDetecting(detect), runtime); err != nil {
					n.Fatal(err)
				}
				if _, err := askGateway(pod); err != nil {
					n.Error(err)
				}
				if v4, v6 := v4(), v6(); v4 == 0 || v6 == 0 {
					n.Errorf("announced %d times in IPv4 and %d times in IPv6", v4, v6)
				}
			})
		})
	}
}

func TestSharedAddressIsNotAnnounced(t *testing.T) {
	for name, detect := range map[string]wire.Detection{"without detection": {}, "with detection": {IPConflict: true}} {
		t.Run(name, func(t *testing.T) {
			eachMain(t, func(n *network) {
				a := newDetecting(detect)
				a.shared = true
				announced := n.other.Capture(n.dev, announces(netip.MustParseAddr("10.20.0.10")))
				if _, err := n.add(a); err != nil {
					n.Fatal(err)
				}
				if count := announced(); count != 0 {
					n.Errorf("announced %d times", count)
				}
			})
		})
	}
}

// TestLaterInterfaceSkipsDetection uses a main plugin that calls IPAM before it creates
// the interface.
func TestLaterInterfaceSkipsDetection(t *testing.T) {
	n := &network{T: t, node: linuxtest.NewMachine(t, "node"), plugin: `"type":"ptp"`}
	pod, runtime := newPod(t)
	detectForLong(pod)
	if _, err := n.addTo(newDetecting(wire.Detection{}), runtime); err != nil {
		t.Fatal(err)
	}
	pod.Await("1", "sh", "-c", "ip -6 -o address show dev eth0 | grep fd20::10 | grep -vc tentative || true")
}

// A main plugin that gets an IPv6 gateway looks whether the addresses are usable, and
// sleeps if they are not.
func TestIPv6GatewayIsOnlyRoute(t *testing.T) {
	gateways := func(n *network) string {
		pod, runtime := newPod(n.T)
		result, err := n.resultOf(newDetecting(wire.Detection{}), runtime)
		if err != nil {
			n.Fatal(err)
		}
		pod.Await("default via fd20::1 dev eth0", "ip", "-6", "route")
		var out []string
		for _, ip := range result.IPs {
			out = append(out, ip.Gateway.String())
		}
		return strings.Join(out, " ")
	}
	eachMain(t, func(n *network) {
		if got := gateways(n); got != "10.20.0.1 <nil>" {
			n.Errorf("got the gateways %s", got)
		}
	})
	t.Run("bridge", func(t *testing.T) { // gives the gateway's address to the node
		n := &network{T: t, node: linuxtest.NewMachine(t, "node"), plugin: `"type":"bridge","bridge":"br0","isGateway":true`}
		if got := gateways(n); got != "10.20.0.1 fd20::1" {
			t.Errorf("got the gateways %s", got)
		}
	})
}

// TestDetectionUnderWayEnds uses an interface that is up when the plugin is called, like
// that of SR-IOV.
func TestDetectionUnderWayEnds(t *testing.T) {
	for name, static := range map[string]bool{"link-local address only": false, "address of another plugin": true} {
		t.Run(name, func(t *testing.T) {
			node, other := linuxtest.NewMachine(t, "node"), linuxtest.NewMachine(t, "other")
			pod, _ := newPod(t)
			detectForLong(pod)
			linuxtest.Wire(pod, "eth0", other, "x")
			if static {
				addr, err := netlink.ParseAddr("fd30::1/64")
				if err != nil {
					t.Fatal(err)
				}
				if err := pod.NL.AddrAdd(pod.Link("eth0"), addr); err != nil {
					t.Fatal(err)
				}
			}
			pod.Await("tentative", "ip", "-6", "address", "show", "dev", "eth0")
			bin, err := plugins.Dir()
			if err != nil {
				t.Fatal(err)
			}
			serve(t, newDetecting(wire.Detection{}), t.TempDir())
			out, err := node.Run(`{"cniVersion":"1.0.0","name":"n","type":"sriov","ipam":{"type":"spiderpool"}}`, []string{
				"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + bin,
				"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod",
			}, filepath.Join(bin, "spiderpool"))
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if static { // not ours to remove
				pod.Await("inet6 fd30::1/64", "ip", "-6", "address", "show", "dev", "eth0")
				return
			}
			const query = "ip -6 -o address show dev eth0 | grep fe80 | grep -vc tentative || true"
			pod.Await("1", "sh", "-c", query)
		})
	}
}

func TestDetectionStaysOnOtherInterfaces(t *testing.T) {
	eachMain(t, func(n *network) {
		pod, runtime := newPod(n.T)
		detectForLong(pod)
		if _, err := n.addTo(newDetecting(wire.Detection{}), runtime); err != nil {
			n.Fatal(err)
		}
		for dev, want := range map[string]string{"eth0": "0 0 1", "default": "1 100 0"} {
			var got []string
			for _, name := range []string{"accept_dad", "dad_transmits", "ndisc_notify"} {
				if err := pod.Do(func() error {
					value, err := os.ReadFile(fmt.Sprintf("/proc/sys/net/ipv6/conf/%s/%s", dev, name))
					got = append(got, strings.TrimSpace(string(value)))
					return err
				}); err != nil {
					n.Fatal(err)
				}
			}
			if strings.Join(got, " ") != want {
				n.Errorf("%s has %v, want %s", dev, got, want)
			}
		}
	})
}
