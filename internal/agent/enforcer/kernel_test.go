//go:build kernel

package enforcer

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

const (
	friendAddr, strangerAddr = "172.31.16.5", "172.31.16.6"
	podAddr                  = "172.31.16.9"
	// Those of net1.
	friend4, friend6     = "172.31.32.5", "fd00:32::5"
	stranger4, stranger6 = "172.31.32.6", "fd00:32::6"
	net1Addr, net1Addr6  = "172.31.32.9", "fd00:32::9"
	servedPort           = 8080
)

// lan is a node on a network with two other machines.
type lan struct {
	*node
	machine, friend, stranger *linuxtest.Machine
}

func newLAN(t testing.TB) *lan {
	l := &lan{node: newNode(t), machine: linuxtest.NewMachine(t, "node"), friend: linuxtest.NewMachine(t, "friend"), stranger: linuxtest.NewMachine(t, "stranger")}
	l.machine.Bridge("br0")
	for name, m := range map[string]*linuxtest.Machine{friendAddr: l.friend, strangerAddr: l.stranger} {
		port := map[string]string{friendAddr: "p1", strangerAddr: "p2"}[name]
		linuxtest.Wire(l.machine, port, m, "eth0")
		l.machine.Enslave(port, "br0")
		m.Addr("eth0", name+"/20")
	}
	l.machine.Addr("br0", "172.31.16.1/20")
	l.restart()
	return l
}

// restart starts an agent with the real packet filters.
func (l *lan) restart() {
	l.node.restart()
	in := func(path string, f func(*linux.Namespace) error) error {
		ns, err := linux.Open(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		return f(ns)
	}
	remove := func(ns *linux.Namespace) error { _, err := packetfilter.Remove(ns); return err }
	l.Open = func(path string) (f Filter, err error) {
		return f, in(path, func(ns *linux.Namespace) (err error) { f, err = packetfilter.Open(ns); return err })
	}
	l.Clear = func(path string) error { return in(path, remove) }
	l.Enforcer.node.open = func() (f NodeFilter, err error) {
		return f, in(l.machine.Path(), func(ns *linux.Namespace) (err error) { f, err = packetfilter.OpenNode(ns); return err })
	}
	l.Enforcer.node.clear = func() error { return in(l.machine.Path(), remove) }
	l.Interface = func(at wire.Attachment, _ string, _ ipam.Pod) (policy.Interface, bool, error) {
		if at.Interface == pool.FirstInterface {
			return policy.Interface{Name: at.Interface, Default: true, Addrs: addrs(podAddr)}, true, nil
		}
		return policy.Interface{Name: at.Interface, Network: storage, Addrs: addrs(net1Addr, net1Addr6)}, true, nil
	}
	l.Networks = func(lease.Holder) (map[string]policy.Name, error) {
		return map[string]policy.Name{"net1": storage}, nil
	}
	l.SetNodeAddrs([]netip.Addr{netip.MustParseAddr("172.31.16.1")})
}

// sandbox makes the namespace of a pod, with lo only.
func (l *lan) sandbox(name string) (*linuxtest.Machine, ipam.Pod, wire.Attachment) {
	pod, at := l.pod(name)
	m := linuxtest.NewMachine(l.TB, name)
	if err := os.Remove(at.NetNS); err != nil {
		l.Fatal(err)
	}
	if err := os.Symlink(m.Path(), at.NetNS); err != nil {
		l.Fatal(err)
	}
	return m, pod, at
}

// attach is the main plugin.
func (l *lan) attach(m *linuxtest.Machine) {
	l.machine.Sub("macvlan", "br0", m, pool.FirstInterface)
	m.Addr(pool.FirstInterface, podAddr+"/20")
	m.Serve(servedPort)
}

// reach reports who reaches the pod. patience bounds the wait for a connection that should fail.
func (l *lan) reach(when string, want map[*linuxtest.Machine]bool) {
	l.Helper()
	l.reachAt(when, podAddr, want)
}

// reachAt is reach for an address of the pod.
func (l *lan) reachAt(when, addr string, want map[*linuxtest.Machine]bool) {
	l.Helper()
	for m, reaches := range want {
		patience := time.Second
		if reaches {
			patience = 20 * time.Second
		}
		if _, err := m.Ask("tcp", net.JoinHostPort(addr, fmt.Sprint(servedPort)), patience); (err == nil) != reaches {
			l.Errorf("%s: %s reaches %s: %v (%v)", when, m.Name, addr, !reaches, err)
		}
	}
}

func policyTables(m *linuxtest.Machine) int {
	return strings.Count(m.Must("", "nft", "list", "tables"), "spiderpool-policy")
}

func TestPacketFilterKeepsContract(t *testing.T) {
	l := newLAN(t)
	m, _, at := l.sandbox("web")
	filterContract(t, at.NetNS, l.Open, l.Clear, func(string) int { return policyTables(m) })
}

// The IPAM plugin's ADD comes before the interface exists.
func TestIsolationStandsBeforeInterface(t *testing.T) {
	l := newLAN(t)
	m, pod, at := l.sandbox("web")
	l.view.set(friendAddr, nil, pod)
	l.admit(pod, at)
	if policyTables(m) == 0 {
		t.Error("the IPAM plugin's ADD leaves the pod open")
	}
	l.attach(m)
	only := map[*linuxtest.Machine]bool{l.friend: true, l.stranger: false}
	l.reach("without a coordinator", only)
	l.admit(pod, at)
	l.reach("behind the coordinator's request", only)
	if l.view.set("", nil, pod); l.bring(l.Enforcer.sandbox(at.ContainerID), pod) != nil || policyTables(m)+policyTables(l.machine) != 0 {
		t.Errorf("left over: %s%s", m.Must("", "nft", "list", "tables"), l.machine.Must("", "nft", "list", "tables"))
	}
	l.reach("without policies", map[*linuxtest.Machine]bool{l.friend: true, l.stranger: true})
}

// Agents end and begin while one machine may connect and another may not.
func TestRestartsLetNothingThrough(t *testing.T) {
	l := newLAN(t)
	m, pod, at := l.sandbox("web")
	l.attach(m)
	l.view.set(friendAddr, nil, pod)
	stop := l.run()
	l.admit(pod, at)
	retransmitted := retransmissions(l.friend)

	var probes sync.WaitGroup
	ended := make(chan struct{})
	var asked, refused int
	probes.Go(func() {
		for ; ; asked++ {
			select {
			case <-ended:
				return
			default:
			}
			if _, err := l.friend.Ask("tcp", fmt.Sprintf("%s:%d", podAddr, servedPort), 20*time.Second); err != nil {
				t.Errorf("probe %d of the friend: %v", asked, err)
			}
		}
	})
	probes.Go(func() {
		for ; ; refused++ {
			select {
			case <-ended:
				return
			default:
			}
			if _, err := l.stranger.Ask("tcp", fmt.Sprintf("%s:%d", podAddr, servedPort), 20*time.Millisecond); err == nil {
				t.Errorf("probe %d of the stranger succeeds", refused)
			}
		}
	})
	for round := range 5 {
		stop()
		l.view.set(friendAddr, errMissing, pod)
		l.restart()
		stop = l.run()
		asked := l.view.questions()
		await(t, func() error {
			if l.view.questions() == asked {
				return fmt.Errorf("round %d: the agent does not find the pod", round)
			}
			return nil
		})
		l.view.set(friendAddr, nil, pod)
		l.ChangedAll(l.Now())
		await(t, func() error {
			if states := l.States(); len(states) != 1 || !states[0].Filtered {
				return fmt.Errorf("round %d: %+v", round, states)
			}
			return nil
		})
	}
	close(ended)
	probes.Wait()
	t.Logf("%d probes of the friend, %d of the stranger", asked, refused)
	if again := retransmissions(l.friend); again != retransmitted {
		t.Errorf("the friend lost %d packets", again-retransmitted)
	}
	if n := policyTables(m); n != 1 {
		t.Errorf("the pod has %d filters", n)
	}
}

// retransmissions returns the number of retransmitted TCP segments.
func retransmissions(m *linuxtest.Machine) (n int) {
	lines := strings.Split(m.Must("", "cat", "/proc/net/snmp"), "\n")
	var names, values []string
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "Tcp:" {
			names, values = values, fields
		}
	}
	for i, name := range names {
		if name == "RetransSegs" {
			_, _ = fmt.Sscan(values[i], &n)
		}
	}
	return n
}

// A sandbox of an earlier release has no record. What a pod says about itself proves nothing: an address with two
// holders, or a namespace with the addresses of two pods.
func TestSandboxesAreFoundByLeases(t *testing.T) {
	l := newLAN(t)
	m, pod, _ := l.sandbox("web")
	l.attach(m)
	stranger, _, _ := l.sandbox("stranger")
	stranger.Bridge(pool.FirstInterface) // away from the network
	stranger.Addr(pool.FirstInterface, podAddr+"/32", "172.31.16.10/32")
	held := func(addr, container, uid, name string) lease.Lease {
		at := lease.Attachment{ContainerID: container, Interface: pool.FirstInterface}
		return lease.Lease{Addr: netip.MustParseAddr(addr), Holder: lease.Holder{Attachment: at, PodUID: uid, Pod: lease.PodKey{Namespace: "default", Name: name}}}
	}
	l.Leases = func() []lease.Lease {
		return []lease.Lease{held(podAddr, "c-web", pod.UID, "web"), held("172.31.16.10", "c-other", "other-uid", "other")}
	}
	l.searchEnded = false
	l.view.set(friendAddr, nil, pod)
	l.run()
	await(t, func() error {
		if policyTables(m) == 0 {
			return fmt.Errorf("the pod is open; records %v", l.Enforcer.mu.sandboxes)
		}
		return nil
	})
	l.reach("found by its lease", map[*linuxtest.Machine]bool{l.friend: true, l.stranger: false})
	if policyTables(stranger) != 0 {
		t.Error("a namespace with the addresses of two pods has a filter")
	}
	if _, err := os.Stat(filepath.Join(l.Records, "c-web")); err != nil {
		t.Error(err)
	}
}

func TestRemovalLeavesNoFilter(t *testing.T) {
	l := newLAN(t)
	m, pod, at := l.sandbox("web")
	l.attach(m)
	m.Must("", "nft", "add", "table", "inet", "other")
	l.view.set(friendAddr, nil, pod)
	stop := l.run()
	l.admit(pod, at)
	stop()
	if policyTables(m) == 0 || policyTables(l.machine) == 0 {
		t.Fatal("the ended agent took its filters along")
	}
	host, err := linux.Open(l.machine.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for _, want := range []bool{true, false} {
		if removed, err := packetfilter.RemoveAll(host, l.PodNamespaces); err != nil || removed > 0 != want {
			t.Errorf("removed %d filters, %v", removed, err)
		}
	}
	if out := m.Must("", "nft", "list", "tables") + l.machine.Must("", "nft", "list", "tables"); strings.Contains(out, "spiderpool-policy") || !strings.Contains(out, "inet other") {
		t.Errorf("tables after the removal:\n%s", out)
	}
	l.reach("after the removal", map[*linuxtest.Machine]bool{l.friend: true, l.stranger: true})
}
