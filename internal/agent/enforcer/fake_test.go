package enforcer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// kernel is a fake of the filters in a node's namespaces. It passes the suite of contract_test.go, like the real ones.
type kernel struct {
	mu sync.Mutex
	// tables are the contents by namespace, and in node those by pair. Those of closed filters stay.
	tables map[string]packetfilter.Wanted
	node   map[string]packetfilter.Wanted
	// former are the pairs in the node's filters of former agents.
	former map[string]packetfilter.Wanted
	fault  error
	opened int // filters so far
	open   int // filters now
	writes map[string]int
}

func newKernel() *kernel {
	return &kernel{tables: map[string]packetfilter.Wanted{}, node: map[string]packetfilter.Wanted{}, former: map[string]packetfilter.Wanted{}, writes: map[string]int{}}
}

// do calls f with the lock, unless the kernel has a fault.
func (k *kernel) do(f func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault == nil {
		f()
	}
	return k.fault
}

type fakeFilter struct {
	*kernel
	namespace string
}

func (k *kernel) Open(namespace string) (Filter, error) {
	if _, err := os.Stat(namespace); err != nil {
		return nil, err
	}
	return &fakeFilter{k, namespace}, k.do(func() { k.opened++; k.open++ })
}

func (k *kernel) Clear(namespace string) error { return k.do(func() { delete(k.tables, namespace) }) }

func (f *fakeFilter) Apply(w packetfilter.Wanted) error {
	return f.do(func() {
		f.writes[f.namespace]++
		if f.tables[f.namespace] = w; len(w.Interfaces) == 0 {
			delete(f.tables, f.namespace)
		}
	})
}

func (f *fakeFilter) Takeover() string { return "" }
func (f *fakeFilter) Close() error     { return f.do(func() { f.open-- }) }
func (f *fakeFilter) Drops() ([]packetfilter.Drops, error) {
	return []packetfilter.Drops{{Interface: "eth0", Direction: policy.Ingress, Packets: 2}}, nil
}

type fakeNode struct{ *kernel }

func (k *kernel) OpenNode() (NodeFilter, error) { return &fakeNode{k}, nil }

func (k *kernel) ClearNode() error { return k.do(func() { clear(k.former) }) }

func (n *fakeNode) Set(pair string, w packetfilter.Wanted) error {
	return n.do(func() {
		if n.node[pair] = w; len(w.Interfaces) == 0 {
			delete(n.node, pair)
		}
	})
}

func (n *fakeNode) Adopted() error { return n.do(func() { clear(n.former) }) }

// Close leaves the node's filter to the next agent.
func (n *fakeNode) Close() error {
	return n.do(func() {
		for pair, w := range n.node {
			n.former[pair] = w
		}
		clear(n.node)
	})
}

func (n *fakeNode) Drops() (drops []packetfilter.Drops, err error) {
	return drops, n.do(func() {
		for pair := range n.node {
			drops = append(drops, packetfilter.Drops{Link: pair, Direction: policy.Egress, Packets: 3})
		}
	})
}

// filter returns the filter of an interface in a namespace, nil if there is none.
func (k *kernel) filter(namespace, name string) *packetfilter.Interface {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range k.tables[namespace].Interfaces {
		if i.Name == name {
			return &i
		}
	}
	return nil
}

// peers are the peers that may reach an interface, "" if it has no filter.
func (k *kernel) peers(namespace, name string) string {
	f := k.filter(namespace, name)
	switch {
	case f == nil:
		return ""
	case f.Sets.Ingress.Any.IsEmpty():
		return "nothing"
	}
	return f.Sets.Ingress.Any.String()
}

// view is a fake of the policies.
type view struct {
	mu    sync.Mutex
	peers map[seat]string // addresses, e.g. "10.0.0.1 fd00::1"; "" for an open interface
	// missing are errors about interfaces, by name.
	missing   map[string]error
	asked     int
	forgotten []lease.PodKey
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// seat is an interface of a pod, on a network.
type seat struct {
	pod     lease.PodKey
	name    string
	network policy.Name
}

func (v *view) Decide(pod ipam.Pod, interfaces []policy.Interface) (sets []policy.Sets, unknown []error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	for _, i := range interfaces {
		var one policy.Sets
		if peer := v.peers[seat{pod.PodKey, i.Name, i.Network}]; peer != "" && v.missing[i.Name] == nil {
			one.Ingress = &policy.Allowed{Any: inet.OfAddrs(addrs(strings.Fields(peer)...)...)}
		}
		sets, unknown = append(sets, one), append(unknown, v.missing[i.Name])
	}
	return sets, unknown
}

func (v *view) Forget(pod lease.PodKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgotten = append(v.forgotten, pod)
}

func (v *view) set(peer string, missing error, pods ...ipam.Pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.missing[pool.FirstInterface] = missing
	for _, pod := range pods {
		v.peers[seat{pod: pod.PodKey, name: pool.FirstInterface}] = peer
	}
}

// setStorage is set for the pod's interface net1 on the network storage.
func (v *view) setStorage(peer string, missing error, pod ipam.Pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.missing["net1"] = missing
	v.peers[seat{pod.PodKey, "net1", storage}] = peer
}

var storage = policy.Name{Namespace: "shop", Name: "storage"}

func (v *view) questions() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.asked
}

// node is a node under test.
type node struct {
	*Enforcer
	testing.TB
	kernel *kernel
	view   *view

	mu       sync.Mutex
	pods     map[lease.PodKey]ipam.Pod
	now      time.Time
	warnings []string
	// network is that of net1 in the annotations of the pods.
	network policy.Name
}

func newNode(t testing.TB) *node {
	n := &node{TB: t, kernel: newKernel(), view: &view{peers: map[seat]string{}, missing: map[string]error{}},
		pods: map[lease.PodKey]ipam.Pod{}, now: time.Unix(1_000_000, 0), network: storage}
	n.Enforcer = &Enforcer{Records: filepath.Join(t.TempDir(), "sandboxes"), PodNamespaces: t.TempDir()}
	n.restart()
	return n
}

// restart replaces the agent by a new one with the same kernel, records and policies.
func (n *node) restart() {
	n.Enforcer = &Enforcer{
		View: n.view, Ready: func() error { return nil },
		Pod: func(key lease.PodKey) (ipam.Pod, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			pod, ok := n.pods[key]
			return pod, ok
		},
		Open: n.kernel.Open, Clear: n.kernel.Clear, OpenNode: n.kernel.OpenNode, ClearNode: n.kernel.ClearNode,
		Interface: func(at wire.Attachment, _ string, _ ipam.Pod) (policy.Interface, bool, error) {
			if at.Interface == pool.FirstInterface {
				return policy.Interface{Name: at.Interface, Default: true, Addrs: addrs("10.0.0.9")}, true, nil
			}
			return policy.Interface{Name: at.Interface, Network: n.network, Addrs: addrs("10.7.0.9")}, at.Interface == "net1", nil
		},
		Records: n.Records, PodNamespaces: n.PodNamespaces,
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { n.mu.Lock(); defer n.mu.Unlock(); return n.now },
		Warn: func(pod ipam.Pod, reason string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.warnings = append(n.warnings, pod.Name+": "+reason)
		},
		searchEnded: true, // leases are for the kernel tests
	}
	n.init()
	n.SetNodeAddrs([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
	n.Enforcer.mu.searched = true
}

// run runs the agent until stop or the end of the test.
func (n *node) run() (stop func()) {
	ctx, cancel := context.WithCancel(n.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Enforcer.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	n.Cleanup(stop)
	return stop
}

// pod adds a pod to the API server, with a network namespace.
func (n *node) pod(name string) (ipam.Pod, wire.Attachment) {
	pod := ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: name}, UID: name + "-uid"}
	n.mu.Lock()
	n.pods[pod.PodKey] = pod
	n.mu.Unlock()
	netns := filepath.Join(n.PodNamespaces, "cni-"+name)
	if err := os.Symlink("/proc/self/ns/net", netns); err != nil {
		n.Fatal(err)
	}
	return pod, wire.Attachment{ContainerID: "c-" + name, Interface: pool.FirstInterface, NetNS: netns, PodNamespace: "default", PodName: name, PodUID: pod.UID}
}

func (n *node) admit(pod ipam.Pod, at wire.Attachment) {
	n.Helper()
	if err := n.Admit(n.Context(), at, pod); err != nil {
		n.Fatal(err)
	}
}

// expect compares the peers that may reach a pod.
func (n *node) expect(when string, at wire.Attachment, want string) {
	n.Helper()
	if got := n.kernel.peers(at.NetNS, at.Interface); got != want {
		n.Errorf("%s: %q may reach %s of %s, want %q", when, got, at.Interface, at.PodName, want)
	}
}

// eventually waits for expect.
func (n *node) eventually(when string, at wire.Attachment, want string) {
	n.Helper()
	await(n.TB, func() error {
		if got := n.kernel.peers(at.NetNS, at.Interface); got != want {
			return fmt.Errorf("%s: %q may reach %s of %s, want %q", when, got, at.Interface, at.PodName, want)
		}
		return nil
	})
}

// await waits until condition returns nil.
func await(t testing.TB, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *node) pass(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = n.now.Add(d)
}

var errMissing = errors.New("NetworkPolicies have not been read yet")
