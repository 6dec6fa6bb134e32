//go:build kernel

package vpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/netns"
	"spiderpool.dev/spiderpool/test/lab/internal/nstest"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// Addresses of the topology. worker1 and worker2 share a subnet, master is in another one.
const (
	master, worker1, worker2 = "splab-master", "splab-worker1", "splab-worker2"
	internet, partner        = "splab-internet", "splab-peer"

	masterIPv4, masterIPv6     = "172.31.22.228", "2406:da1e:c4:ed01::10"
	worker1IPv4, worker1IPv6   = "172.31.32.18", "2406:da1e:c4:ed02::10"
	worker2IPv4, worker2IPv6   = "172.31.32.33", "2406:da1e:c4:ed02::2:1"
	worker1PodIPv4             = "172.31.32.184"
	worker1PodIPv6             = "2406:da1e:c4:ed02:7a2e::d"
	masterPodIPv4              = "172.31.28.31"
	masterPodIPv6              = "2406:da1e:c4:ed01:c57d::f"
	worker2PodIPv4             = "172.31.32.70"
	worker2PodIPv6             = "2406:da1e:c4:ed02:8000::7"
	internetIPv4, internetIPv6 = "198.51.100.10", "2001:db8:100::10"
	partnerIPv4, partnerIPv6   = "10.50.1.10", "2001:db8:50:1::10"
	natPublicIPv4              = "203.0.113.10"
	unassignedIPv4             = "172.31.32.200"
	unassignedIPv6             = "2406:da1e:c4:ed02::999"
	answered, notAnswered      = 5 * time.Second, 400 * time.Millisecond
	echoPort                   = 8080
)

// up builds the topology with that many nodes and removes it at the end of the test.
func up(t *testing.T, name string, nodes int) *topology.Topology {
	t.Helper()
	described, err := topology.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	topo, err := described.WithNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	actions := Actions(topo)
	t.Cleanup(func() {
		if err := action.Undo(context.Background(), actions); err != nil {
			t.Error(err)
		}
	})
	if err := action.Do(t.Context(), actions); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- ServeNeighbours(ctx, topo, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("neighbours: %v", err)
		}
	})
	return topo
}

// addPodAddress adds an address to a host's interface. Its frames look like those of an ipvlan pod.
func addPodAddress(t *testing.T, namespace string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if err := (end{namespace: namespace, link: "ens5"}).setAddresses(single(netip.MustParseAddr(addr))); err != nil {
			t.Fatal(err)
		}
	}
}

// listen answers TCP connections in the namespace with the client's address.
func listen(t *testing.T, namespace string) {
	t.Helper()
	var listener net.Listener
	if err := netns.Do(namespace, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", echoPort))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(connection.RemoteAddr().String())
			_, _ = io.WriteString(connection, host)
			_ = connection.Close()
		}
	}()
}

// ask connects from an address in a namespace to a listener. It returns the client's address as seen by the listener.
func ask(namespace, from, to string, timeout time.Duration) (string, error) {
	var seen []byte
	err := netns.Do(namespace, func() error {
		dialer := net.Dialer{Timeout: timeout}
		if from != "" {
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		connection, err := dialer.Dial("tcp", net.JoinHostPort(to, fmt.Sprint(echoPort)))
		if err != nil {
			return err
		}
		defer func() { _ = connection.Close() }()
		if err := connection.SetDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		seen, err = io.ReadAll(connection)
		return err
	})
	return string(seen), err
}

func TestVPCForwardsAssignedAddresses(t *testing.T) {
	up(t, "aws", 3)
	addPodAddress(t, master, masterPodIPv4, masterPodIPv6)
	addPodAddress(t, worker1, worker1PodIPv4, worker1PodIPv6)
	addPodAddress(t, worker2, worker2PodIPv4, worker2PodIPv6)
	for _, namespace := range []string{master, worker1, worker2, internet, partner} {
		listen(t, namespace)
	}
	for _, test := range []struct{ name, namespace, from, to, seen string }{
		{"node to node across subnets, IPv4", master, masterIPv4, worker1IPv4, masterIPv4},
		{"node to node across subnets, IPv6", master, masterIPv6, worker1IPv6, masterIPv6},
		{"node to node in one subnet, IPv4", worker2, worker2IPv4, worker1IPv4, worker2IPv4},
		{"node to node in one subnet, IPv6", worker2, worker2IPv6, worker1IPv6, worker2IPv6},
		{"pod to pod across subnets, IPv4", master, masterPodIPv4, worker1PodIPv4, masterPodIPv4},
		{"pod to pod across subnets, IPv6", master, masterPodIPv6, worker1PodIPv6, masterPodIPv6},
		{"pod to pod in one subnet, IPv4", worker2, worker2PodIPv4, worker1PodIPv4, worker2PodIPv4},
		{"pod to pod in one subnet, IPv6", worker2, worker2PodIPv6, worker1PodIPv6, worker2PodIPv6},
		{"remote node to pod, IPv4", worker1, worker1IPv4, masterPodIPv4, worker1IPv4},
		{"remote node to pod, IPv6", worker1, worker1IPv6, masterPodIPv6, worker1IPv6},
		{"pod to the internet, IPv4: hidden by the NAT gateway", worker1, worker1PodIPv4, internetIPv4, natPublicIPv4},
		{"pod to the internet, IPv6: as it is", worker1, worker1PodIPv6, internetIPv6, worker1PodIPv6},
		{"internet to pod, IPv6", internet, internetIPv6, masterPodIPv6, internetIPv6},
		{"peered VPC to pod, IPv4", partner, partnerIPv4, worker1PodIPv4, partnerIPv4},
		{"peered VPC to pod, IPv6", partner, partnerIPv6, worker1PodIPv6, partnerIPv6},
		{"pod to peered VPC, IPv4", worker1, worker1PodIPv4, partnerIPv4, worker1PodIPv4},
		{"pod to peered VPC, IPv6", worker1, worker1PodIPv6, partnerIPv6, worker1PodIPv6},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen, err := ask(test.namespace, test.from, test.to, answered)
			if err != nil || seen != test.seen {
				t.Errorf("%s to %s: seen as %q (%v), want %q", test.from, test.to, seen, err, test.seen)
			}
		})
	}
}

func TestVPCDropsUnassignedAddresses(t *testing.T) {
	up(t, "aws", 3)
	// Both hosts have these addresses configured. Only the VPC prevents the traffic.
	addPodAddress(t, master, "172.31.28.40", "2406:da1e:c4:ed01:c57e::1", "192.0.2.1")
	addPodAddress(t, worker1, worker1PodIPv4, worker1PodIPv6, unassignedIPv4, unassignedIPv6, worker2PodIPv4)
	for _, namespace := range []string{master, worker1, internet} {
		listen(t, namespace)
	}
	t.Run("", func(t *testing.T) {
		for _, test := range []struct{ name, namespace, from, to string }{
			{"source beside the delegated prefix, IPv4", master, "172.31.28.40", worker1IPv4},
			{"source beside the delegated prefix, IPv6", master, "2406:da1e:c4:ed01:c57e::1", worker1IPv6},
			{"source out of the VPC", master, "192.0.2.1", worker1IPv4},
			{"source of another ENI", worker1, worker2PodIPv4, masterIPv4},
			{"unassigned destination, IPv4", master, masterIPv4, unassignedIPv4},
			{"unassigned destination, IPv6", master, masterIPv6, unassignedIPv6},
			{"unassigned destination, same subnet", worker2, worker2IPv4, unassignedIPv4},
			{"the internet cannot open connections through the NAT gateway", internet, internetIPv4, natPublicIPv4},
			{"the internet knows no private addresses", internet, internetIPv4, worker1IPv4},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				if seen, err := ask(test.namespace, test.from, test.to, notAnswered); err == nil {
					t.Errorf("%s reached %s, seen as %q", test.from, test.to, seen)
				}
			})
		}
	})
	// The listeners do answer assigned addresses, so the VPC caused the silence above.
	if _, err := ask(master, masterIPv4, worker1PodIPv4, answered); err != nil {
		t.Error(err)
	}
	if _, err := ask(worker2, worker2IPv6, worker1PodIPv6, answered); err != nil {
		t.Error(err)
	}
}

// addPod creates a namespace with a child of the host's ens5, with addresses and default routes. It returns the
// kernel's error if the kernel does not support such links.
func addPod(t *testing.T, host, pod string, child func(netlink.LinkAttrs) netlink.Link, addrs, gateways []string) error {
	t.Helper()
	if err := netns.Ensure(pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(pod); err != nil {
			t.Error(err)
		}
	})
	var unsupported error
	if err := (end{namespace: host, link: "ens5"}).with(func(handle *netlink.Handle, parent netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "pod0", parent.Attrs().Index
		link := child(attrs)
		if unsupported = handle.LinkAdd(link); unsupported != nil {
			return nil
		}
		into, err := vnetns.GetFromPath(netns.Path(pod))
		if err != nil {
			return err
		}
		defer func() { _ = into.Close() }()
		return handle.LinkSetNsFd(link, int(into))
	}); err != nil {
		t.Fatal(err)
	}
	if unsupported != nil {
		return unsupported
	}
	port := end{namespace: pod, link: "pod0"}
	if err := port.with(func(handle *netlink.Handle, link netlink.Link) error { return handle.LinkSetUp(link) }); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if err := port.setAddresses(netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	for _, gateway := range gateways {
		via := netip.MustParseAddr(gateway)
		if err := port.addRoute(everything(via), via, 0); err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

// addMacvlanPod creates a pod with its own MAC address.
func addMacvlanPod(t *testing.T, host, pod, addr, gateway string) {
	t.Helper()
	if err := addPod(t, host, pod, func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	}, []string{addr}, []string{gateway}); err != nil {
		t.Fatal(err)
	}
}

func TestIPvlanPodWorksInTheVPC(t *testing.T) {
	up(t, "aws", 3)
	ipvlan := func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
	}
	const pod, neighbour, remote = "splab-test-pod", "splab-test-neighbour", "splab-test-remote"
	for _, p := range []struct{ host, pod, ipv4, ipv6 string }{
		{worker1, pod, worker1PodIPv4, worker1PodIPv6},
		{worker1, neighbour, "172.31.32.185", "2406:da1e:c4:ed02:7a2e::e"},
		{worker2, remote, worker2PodIPv4, worker2PodIPv6},
	} {
		err := addPod(t, p.host, p.pod, ipvlan, []string{p.ipv4 + "/24", p.ipv6 + "/64"},
			[]string{"172.31.32.1", "2406:da1e:c4:ed02::1"})
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("this kernel has no ipvlan; run the test in User Mode Linux")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, namespace := range []string{master, pod, neighbour, remote, internet, partner} {
		listen(t, namespace)
	}
	for _, test := range []struct{ name, namespace, to, seen string }{
		{"to a node of another subnet, IPv4", pod, masterIPv4, worker1PodIPv4},
		{"to a node of another subnet, IPv6", pod, masterIPv6, worker1PodIPv6},
		{"from a node of another subnet, IPv4", master, worker1PodIPv4, masterIPv4},
		{"from a node of another subnet, IPv6", master, worker1PodIPv6, masterIPv6},
		{"to a pod of the same node, IPv4", pod, "172.31.32.185", worker1PodIPv4},
		{"to a pod of the same node, IPv6", pod, "2406:da1e:c4:ed02:7a2e::e", worker1PodIPv6},
		{"to a pod of another node of the subnet, IPv4", pod, worker2PodIPv4, worker1PodIPv4},
		{"to a pod of another node of the subnet, IPv6", pod, worker2PodIPv6, worker1PodIPv6},
		{"to the internet, IPv4", pod, internetIPv4, natPublicIPv4},
		{"to the internet, IPv6", pod, internetIPv6, worker1PodIPv6},
		{"from the peered VPC, IPv4", partner, worker1PodIPv4, partnerIPv4},
	} {
		t.Run(test.name, func(t *testing.T) {
			if seen, err := ask(test.namespace, "", test.to, answered); err != nil || seen != test.seen {
				t.Errorf("seen as %q (%v), want %q", seen, err, test.seen)
			}
		})
	}
}

func TestMacvlanPodIsIsolatedInTheVPC(t *testing.T) {
	up(t, "aws", 2)
	const pod = "splab-test-pod"
	addMacvlanPod(t, worker1, pod, worker1PodIPv4+"/24", "172.31.32.1")
	listen(t, master)
	listen(t, pod)
	if seen, err := ask(pod, worker1PodIPv4, masterIPv4, notAnswered); err == nil {
		t.Errorf("the pod reached master, seen as %q", seen)
	}
	// Even if the pod knows the router's MAC, the VPC drops frames with the pod's own MAC.
	router := end{namespace: "splab-vpc-main", link: eniLink(netip.MustParseAddr(worker1IPv4))}
	if err := router.with(func(_ *netlink.Handle, link netlink.Link) error {
		return end{namespace: pod, link: "pod0"}.addNeighbour(netip.MustParseAddr("172.31.32.1"), link.Attrs().HardwareAddr)
	}); err != nil {
		t.Fatal(err)
	}
	if seen, err := ask(pod, worker1PodIPv4, masterIPv4, notAnswered); err == nil {
		t.Errorf("the pod reached master without ARP, seen as %q", seen)
	}
	if seen, err := ask(master, masterIPv4, worker1PodIPv4, notAnswered); err == nil {
		t.Errorf("master reached the pod, seen as %q", seen)
	}
}

func TestMacvlanPodIsReachableOnLayer2(t *testing.T) {
	up(t, "l2", 2)
	const pod, podIPv4 = "splab-test-pod", "10.6.128.5"
	addMacvlanPod(t, worker1, pod, podIPv4+"/16", "10.6.0.1")
	for _, namespace := range []string{master, pod, internet} {
		listen(t, namespace)
	}
	for _, test := range []struct{ name, namespace, to, seen string }{
		{"pod to other node", pod, "10.6.0.10", podIPv4},
		{"other node to pod", master, podIPv4, "10.6.0.10"},
		{"pod to the internet, hidden by the gateway", pod, internetIPv4, natPublicIPv4},
		{"node to the internet, IPv6", master, internetIPv6, "2001:db8:6::10"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if seen, err := ask(test.namespace, "", test.to, answered); err != nil || seen != test.seen {
				t.Errorf("seen as %q (%v), want %q", seen, err, test.seen)
			}
		})
	}
}

// groupsHeard sends a broadcast, a multicast and then a unicast datagram from one host to one socket of another. It
// returns the datagrams received up to the unicast one; a single path keeps their order.
func groupsHeard(t *testing.T, fromNamespace, toNamespace, broadcast, to string) []string {
	t.Helper()
	var receiver *net.UDPConn
	if err := netns.Do(toNamespace, func() (err error) {
		receiver, err = net.ListenUDP("udp4", &net.UDPAddr{Port: echoPort})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = receiver.Close() }()
	group := net.IPv4(239, 1, 2, 3)
	if err := joinGroup(receiver, toNamespace, group); err != nil {
		t.Fatal(err)
	}
	if err := netns.Do(fromNamespace, func() error {
		sender, err := net.ListenUDP("udp4", nil)
		if err != nil {
			return err
		}
		defer func() { _ = sender.Close() }()
		for _, m := range []struct {
			payload string
			to      net.IP
		}{{"broadcast", net.ParseIP(broadcast)}, {"multicast", group}, {"unicast", net.ParseIP(to)}} {
			if _, err := sender.WriteToUDP([]byte(m.payload), &net.UDPAddr{IP: m.to, Port: echoPort}); err != nil {
				return fmt.Errorf("%s: %w", m.payload, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var heard []string
	buffer := make([]byte, 64)
	for {
		if err := receiver.SetReadDeadline(time.Now().Add(answered)); err != nil {
			t.Fatal(err)
		}
		length, _, err := receiver.ReadFromUDP(buffer)
		if err != nil {
			t.Fatalf("the unicast datagram did not arrive: %v; received %q", err, heard)
		}
		heard = append(heard, string(buffer[:length]))
		if heard[len(heard)-1] == "unicast" {
			return heard
		}
	}
}

func TestOnlyLayer2DeliversGroups(t *testing.T) {
	t.Run("aws", func(t *testing.T) {
		up(t, "aws", 3) // worker1 and worker2 share a subnet
		if got := groupsHeard(t, worker2, worker1, "172.31.32.255", worker1IPv4); strings.Join(got, " ") != "unicast" {
			t.Errorf("worker1 received %q", got)
		}
	})
	t.Run("l2", func(t *testing.T) {
		up(t, "l2", 2)
		got := groupsHeard(t, master, worker1, "10.6.255.255", "10.6.0.11")
		for _, want := range []string{"broadcast", "multicast", "unicast"} {
			if !strings.Contains(strings.Join(got, " "), want) {
				t.Errorf("worker1 received %q, want it to contain %s", got, want)
			}
		}
	})
}

func TestActionsCanBeRepeatedAndUndone(t *testing.T) {
	for _, name := range topology.Names() {
		topo, err := topology.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		actions := Actions(topo)
		before := linkNames(t)
		for _, upTo := range []int{0, 1, 3, len(actions) / 2, len(actions)} {
			for range 2 {
				if err := action.Do(t.Context(), actions[:upTo]); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			for range 2 {
				if err := action.Undo(t.Context(), actions); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			left, err := netns.List("")
			if err != nil || len(left) > 0 {
				t.Errorf("%s: undo after %d actions leaves %q (%v)", name, upTo, left, err)
			}
			if after := linkNames(t); after != before {
				t.Errorf("%s: links before %s, after %s", name, before, after)
			}
		}
	}
}

func TestRepeatedActionsKeepConnectionsAlive(t *testing.T) {
	topo := up(t, "aws", 2)
	listen(t, worker1)
	index := func() int {
		var index int
		if err := (end{namespace: master, link: "ens5"}).with(func(_ *netlink.Handle, link netlink.Link) error {
			index = link.Attrs().Index
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return index
	}
	before := index()
	if err := action.Do(t.Context(), Actions(topo)); err != nil {
		t.Fatal(err)
	}
	if after := index(); after != before {
		t.Errorf("ens5 was replaced: index %d before, %d after", before, after)
	}
	if _, err := ask(master, masterIPv4, worker1IPv4, answered); err != nil {
		t.Error(err)
	}
}

func linkNames(t *testing.T) string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return strings.Join(names, " ")
}

func joinGroup(socket *net.UDPConn, namespace string, group net.IP) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return end{namespace: namespace, link: "ens5"}.with(func(_ *netlink.Handle, link netlink.Link) error {
		var joined error
		request := &unix.IPMreqn{Multiaddr: [4]byte(group.To4()), Ifindex: int32(link.Attrs().Index)}
		if err := raw.Control(func(fd uintptr) {
			joined = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, request)
		}); err != nil {
			return err
		}
		return joined
	})
}
