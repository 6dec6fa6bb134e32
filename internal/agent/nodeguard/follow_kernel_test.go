//go:build kernel

package nodeguard

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// answers is how long a test waits for one answer. The first packets on a new link can
// get lost, so a test repeats the question until the answer comes.
const answers = time.Second

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// underlayPod makes a pod on a macvlan child of ens5, with the network of the plan, and
// lists its namespace in dir.
func underlayPod(t *testing.T, node *linuxtest.Machine, host *linux.Namespace, dir, name string, settings netplan.Settings, addrs ...string) *linuxtest.Machine {
	t.Helper()
	pod := linuxtest.NewMachine(t, name)
	node.Sub("macvlan", "ens5", pod, "eth0")
	pod.Addr("eth0", addrs...)
	ns, err := linux.Open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inPod, err := ns.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	facts := netplan.PodOf(inPod, "eth0")
	facts.Attached = "eth0"
	have, err := host.NodeAddrs()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := netplan.Underlay(facts, netplan.Node{Addrs: have, IPv6: true}, settings, netplan.VethPairOf(name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.EnsureNode(settings.HostRuleTable, []inet.Family{inet.IPv4, inet.IPv6}); err != nil {
		t.Fatal(err)
	}
	if err := host.Apply(netplan.Diff(nil, plan.Host, nil), ns); err != nil {
		t.Fatal(err)
	}
	if err := ns.Apply(netplan.Diff(inPod, plan.Pod, plan.Removable), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pod.Path(), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return pod
}

// underlayNode is a node with an address on ens5, and another node of its network.
func underlayNode(t *testing.T) (node, other *linuxtest.Machine, host *linux.Namespace, guard *Maintainer) {
	t.Helper()
	node, host, guard = newMaintainer(t)
	other = linuxtest.NewMachine(t, "other")
	network := linuxtest.NewMachine(t, "switch")
	network.Bridge("br")
	for port, m := range map[string]*linuxtest.Machine{"to-node": node, "to-other": other} {
		linuxtest.Wire(m, "ens5", network, port)
		network.Enslave(port, "br")
	}
	node.Addr("ens5", "172.31.22.228/20", "2406:da1e:c4:ed01::10/64")
	other.Addr("ens5", "172.31.22.229/20", "2406:da1e:c4:ed01::11/64")
	guard.PodNamespaces = t.TempDir()
	return node, other, host, guard
}

func settings() netplan.Settings {
	s := netplan.Default()
	s.Mode, s.ServiceCIDR = netplan.ModeUnderlay, prefixes("10.96.0.0/16")
	return s
}

// reaches returns an error unless the pod gets the answer of the machine at the address.
func reaches(pod *linuxtest.Machine, network, address, machine string) error {
	got, err := pod.Ask(network, address, answers)
	if name, _, _ := strings.Cut(got, " "); err != nil || name != machine {
		return fmt.Errorf("%s %s from %s: %q, %v; want the answer of %s", network, address, pod.Name, got, err, machine)
	}
	return nil
}

var virtual = map[string]string{"172.31.16.50/32": "172.31.16.50:8080", "2406:da1e:c4:ed01::50/128": "[2406:da1e:c4:ed01::50]:8080"}

func TestRunningPodReachesLaterNodeAddress(t *testing.T) {
	node, _, host, guard := underlayNode(t)
	pod := underlayPod(t, node, host, guard.PodNamespaces, "a", settings(), "172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64")
	node.Serve(8080)
	ctx, cancel := context.WithCancel(t.Context())
	guard.Open = func() (*linux.Namespace, error) { return linux.Open(node.Path()) }
	changed := make(chan struct{}, 1)
	guard.AddrsChanged = changed
	var running sync.WaitGroup
	running.Go(func() { guard.Run(ctx) })
	running.Go(func() {
		if err := host.FollowAddrs(ctx, func([]netip.Prefix) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	for address, service := range virtual {
		node.Addr("ens5", address)
		for _, network := range []string{"tcp", "udp"} {
			eventually(t, func() error { return reaches(pod, network, service, "node") })
		}
	}
}

func eventually(t *testing.T, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second) // far below Interval: a tick must not be what helps
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A virtual address moves to another node. Pods that were routed to it through their
// node still reach it, with or without the address in hijackCIDR.
func TestMovedNodeAddressStaysReachable(t *testing.T) {
	node, other, host, guard := underlayNode(t)
	hijacking := settings()
	hijacking.HijackCIDR = prefixes("172.31.16.50/32", "2406:da1e:c4:ed01::50/128")
	follower := underlayPod(t, node, host, guard.PodNamespaces, "a", settings(), "172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64")
	hijacked := underlayPod(t, node, host, guard.PodNamespaces, "b", hijacking, "172.31.28.18/20", "2406:da1e:c4:ed01:c57d::2/64")
	node.Serve(8080)
	other.Serve(8080)

	expect := func(holder string, pods ...*linuxtest.Machine) {
		t.Helper()
		for _, pod := range pods {
			for _, service := range virtual {
				for _, network := range []string{"tcp", "udp"} {
					eventually(t, func() error { return reaches(pod, network, service, holder) })
				}
			}
		}
	}
	for address := range virtual {
		node.Addr("ens5", address)
	}
	expect("node", hijacked)
	for _, service := range virtual {
		for _, network := range []string{"tcp", "udp"} {
			if answer, err := follower.Ask(network, service, answers); err == nil {
				t.Errorf("%s %s: %q before the pod has a route: the test would prove nothing", network, service, answer)
			}
		}
	}
	guard.follow(host)
	expect("node", hijacked, follower)

	for address := range virtual {
		node.Must("", "ip", "addr", "del", address, "dev", "ens5")
		other.Addr("ens5", address)
	}
	guard.follow(host)
	expect("other", hijacked, follower)
}

// The node's routes to pods name its address as their source. With a lost source, the
// kubelet's probes would fail.
func TestNodeReachesPodAfterAddressChange(t *testing.T) {
	node, _, host, guard := underlayNode(t)
	pod := underlayPod(t, node, host, guard.PodNamespaces, "a", settings(), "172.31.28.17/20", "2406:da1e:c4:ed01:c57d::1/64")
	pod.Serve(8080)
	for _, address := range []string{"172.31.22.228/20", "2406:da1e:c4:ed01::10/64"} {
		node.Must("", "ip", "addr", "del", address, "dev", "ens5")
	}
	node.Addr("ens5", "172.31.22.230/20", "2406:da1e:c4:ed01::12/64")
	if answer, err := node.Ask("tcp", "172.31.28.17:8080", answers); err == nil {
		t.Errorf("%q with a lost source: the test would prove nothing", answer)
	}
	guard.follow(host)
	for _, service := range []string{"172.31.28.17:8080", "[2406:da1e:c4:ed01:c57d::1]:8080"} {
		for _, network := range []string{"tcp", "udp"} {
			eventually(t, func() error { return reaches(node, network, service, "a") })
		}
	}
}

// An ADD reads the addresses, then the node gets another, then the ADD makes its routes.
func TestPodIsFollowedAfterRacingAdd(t *testing.T) {
	node, _, host, guard := underlayNode(t)
	clock := timed(guard)
	guard.follow(host)
	clock.pass(followedFor + time.Second)
	node.Addr("ens5", "172.31.16.50/32")
	guard.follow(host)
	node.Must("", "ip", "addr", "del", "172.31.16.50/32", "dev", "ens5")
	pod := underlayPod(t, node, host, guard.PodNamespaces, "a", settings(), "172.31.28.17/20")
	node.Addr("ens5", "172.31.16.50/32")
	clock.pass(Interval)
	guard.follow(host)
	if routes := pod.Must("", "ip", "route", "get", "172.31.16.50"); !strings.Contains(routes, "dev veth0") {
		t.Errorf("the pod of the ADD has no route: %s", routes)
	}
}

// Namespaces of other programs, and files that are none, stay as they are.
func TestFollowLeavesForeignNamespaces(t *testing.T) {
	node, _, host, guard := underlayNode(t)
	foreign := linuxtest.NewMachine(t, "foreign")
	linuxtest.Wire(foreign, "eth0", node, "to-foreign")
	foreign.Addr("eth0", "10.9.0.2/24")
	foreign.Must("", "ip", "route", "add", "10.8.0.0/16", "via", "10.9.0.1", "src", "10.9.0.2")
	for name, target := range map[string]string{"foreign": foreign.Path(), "node": node.Path(), "plain": os.DevNull, "gone": "/run/netns/gone"} {
		if err := os.Symlink(target, filepath.Join(guard.PodNamespaces, name)); err != nil {
			t.Fatal(err)
		}
	}
	before := foreign.Must("", "ip", "route", "show", "table", "all") + node.Must("", "ip", "route", "show", "table", "all")
	guard.follow(host)
	if after := foreign.Must("", "ip", "route", "show", "table", "all") + node.Must("", "ip", "route", "show", "table", "all"); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
}
