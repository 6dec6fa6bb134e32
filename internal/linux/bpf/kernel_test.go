//go:build kernel

package bpf

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/test/docblocks"
)

// cgroupMount returns a mount of the v2 hierarchy. A machine with v1 has it elsewhere or
// not at all; then the test mounts it.
func cgroupMount(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if isType(dir, unix.CGROUP2_SUPER_MAGIC, "", "") == nil {
			return dir
		}
	}
	return mountAt(t, "cgroup2")
}

func mountAt(t testing.TB, kind string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
		t.Fatalf("mount a %s (root is needed): %v", kind, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// node is a node with a control group for its pods.
type node struct {
	t     testing.TB
	dir   string // of the pins
	group string
}

func newNode(t testing.TB) *node {
	t.Helper()
	group, err := os.MkdirTemp(cgroupMount(t), "spiderpool-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	return &node{t: t, dir: filepath.Join(mountAt(t, "bpf"), "spiderpool"), group: group}
}

// load loads programs and closes them with the test.
func (n *node) load() *Programs {
	n.t.Helper()
	p, err := Load(n.dir, n.group)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = p.Close() })
	return p
}

// run loads and attaches the programs with the entries.
func (n *node) run(d service.Diff) *Programs {
	n.t.Helper()
	p := n.load()
	if err := p.Replace(d); err != nil {
		n.t.Fatal(err)
	}
	if err := p.Attach(); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// site is a network with a client pod and two backends, web1 and web2.
type site struct {
	*node
	pod    *linuxtest.Machine
	client *client
}

const port = 8080

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{node: newNode(t)}
	net := linuxtest.NewMachine(t, "switch")
	net.Bridge("br0")
	join := func(name string, addrs ...string) *linuxtest.Machine {
		m := linuxtest.NewMachine(t, name)
		linuxtest.Wire(m, "eth0", net, name)
		net.Enslave(name, "br0")
		m.Addr("eth0", addrs...)
		return m
	}
	join("web1", "10.0.0.1/24", "fd00::1/64").Serve(port)
	join("web2", "10.0.0.2/24", "fd00::2/64").Serve(port)
	s.pod = join("pod", "10.0.0.9/24", "fd00::9/64")
	s.pod.Serve(port)
	// Without translation, a service address leads nowhere.
	s.pod.Route("default", "10.0.0.254", "eth0")
	s.pod.Route("default", "fd00::ffff", "eth0")
	s.client = startClient(t, s.pod, s.group)
	return s
}

// frontendOf is one service with the backends, e.g. "10.96.0.1:80" to "10.0.0.1".
func frontendOf(id service.ID, protocol service.Protocol, flags service.Flags, at string, backends ...string) service.Diff {
	to := netip.MustParseAddrPort(at)
	f := service.Frontend{ID: id, Count: uint32(len(backends)), Flags: flags}
	if flags == service.Affinity {
		f.Timeout = 3600
	}
	if len(backends) == 0 {
		f.ID = 0
	}
	d := service.Diff{SetFrontends: []service.FrontendEntry{{
		FrontendKey: service.FrontendKey{Addr: to.Addr(), Port: to.Port(), Protocol: protocol}, Frontend: f,
	}}}
	for i, b := range backends {
		at := netip.AddrPortFrom(netip.MustParseAddr(b), port)
		d.SetBackends = append(d.SetBackends, service.BackendEntry{Slot: service.Slot{ID: id, Index: uint32(i)}, Backend: at})
		if flags == service.Affinity || protocol == service.UDP {
			d.SetMembers = append(d.SetMembers, service.MemberEntry{Member: service.Member{ID: id, Backend: at}})
		}
	}
	return d
}

// both is a service for TCP and UDP in both IP families, with the first n backends.
func both(n int) service.Diff {
	v4, v6 := []string{"10.0.0.1", "10.0.0.2"}[:n], []string{"fd00::1", "fd00::2"}[:n]
	return join(
		frontendOf(1, service.TCP, 0, "10.96.0.1:80", v4...), frontendOf(2, service.UDP, 0, "10.96.0.1:80", v4...),
		frontendOf(3, service.TCP, 0, "[fd96::1]:80", v6...), frontendOf(4, service.UDP, 0, "[fd96::1]:80", v6...),
	)
}

// kinds are the ways to talk to a service.
var kinds = []request{
	{Name: "TCP IPv4", Type: unix.SOCK_STREAM, Connect: true, To: "10.96.0.1:80"},
	{Name: "TCP IPv6", Type: unix.SOCK_STREAM, Connect: true, To: "[fd96::1]:80"},
	{Name: "TCP IPv4-mapped", Type: unix.SOCK_STREAM, Connect: true, To: "[::ffff:10.96.0.1]:80"},
	{Name: "UDP IPv4", Type: unix.SOCK_DGRAM, Connect: true, To: "10.96.0.1:80"},
	{Name: "UDP IPv6", Type: unix.SOCK_DGRAM, Connect: true, To: "[fd96::1]:80"},
	{Name: "UDP IPv4-mapped", Type: unix.SOCK_DGRAM, Connect: true, To: "[::ffff:10.96.0.1]:80"},
	{Name: "UDP IPv4 unconnected", Type: unix.SOCK_DGRAM, To: "10.96.0.1:80"},
	{Name: "UDP IPv6 unconnected", Type: unix.SOCK_DGRAM, To: "[fd96::1]:80"},
	{Name: "UDP IPv4-mapped unconnected", Type: unix.SOCK_DGRAM, To: "[::ffff:10.96.0.1]:80"},
}

func TestClientReachesServiceAndSeesItsAddress(t *testing.T) {
	s := newSite(t)
	s.run(both(2))
	for _, kind := range kinds {
		t.Run(kind.Name, func(t *testing.T) {
			seen := map[string]bool{}
			for range 64 {
				got := s.client.do(t, kind)
				if got.Error != "" {
					t.Fatal(got.Error)
				}
				seen[got.Answers[0]] = true
				if got.Sources[0] != kind.To {
					t.Fatalf("the answer came from %s, want %s", got.Sources[0], kind.To)
				}
				if kind.Connect && got.Peer != kind.To {
					t.Fatalf("the peer is %s, want %s", got.Peer, kind.To)
				}
				if len(seen) == 2 {
					return
				}
			}
			t.Errorf("all answers came from one backend: %v", seen)
		})
	}
}

func TestServiceWithoutBackendsRefusesAtOnce(t *testing.T) {
	s := newSite(t)
	var refuse []service.Diff
	for _, at := range []string{"10.96.0.1:80", "[fd96::1]:80"} {
		refuse = append(refuse, frontendOf(0, service.TCP, service.Refuse, at), frontendOf(0, service.UDP, service.Refuse, at))
	}
	s.run(join(refuse...))
	for _, kind := range kinds {
		t.Run(kind.Name, func(t *testing.T) {
			if got := s.client.do(t, kind); got.Error != unix.ECONNREFUSED.Error() {
				t.Errorf("got %+v, want %s", got, unix.ECONNREFUSED)
			}
		})
	}
}

func TestAffinityKeepsBackendOfPod(t *testing.T) {
	s := newSite(t)
	second := linuxtest.NewMachine(t, "pod2")
	linuxtest.Wire(second, "eth0", s.pod, "eth1") // its own network namespace is enough
	p := s.run(join(frontendOf(1, service.TCP, service.Affinity, "10.96.0.1:80", "10.0.0.1", "10.0.0.2"),
		frontendOf(2, service.UDP, service.Affinity, "10.96.0.1:80", "10.0.0.1", "10.0.0.2")))
	for _, kind := range []request{kinds[0], kinds[3], kinds[6]} {
		t.Run(kind.Name, func(t *testing.T) {
			first := s.client.do(t, kind)
			for range 16 {
				if got := s.client.do(t, kind); got.Error != "" || got.Answers[0] != first.Answers[0] {
					t.Fatalf("got %+v after %+v", got, first)
				}
			}
		})
	}
	t.Run("another backend once it is gone", func(t *testing.T) {
		first := s.client.do(t, kinds[0]).Answers[0]
		gone, kept := "10.0.0.1", "10.0.0.2"
		if first == "web2 10.0.0.9" {
			gone, kept = kept, gone
		}
		next := frontendOf(1, service.TCP, service.Affinity, "10.96.0.1:80", kept)
		next.DeleteMembers = []service.Member{{ID: 1, Backend: netip.AddrPortFrom(netip.MustParseAddr(gone), port)}}
		next.DeleteBackends = []service.Slot{{ID: 1, Index: 1}}
		if err := p.Change(next); err != nil {
			t.Fatal(err)
		}
		if got := s.client.do(t, kinds[0]); got.Error != "" || got.Answers[0] == first {
			t.Errorf("got %+v after the end of the backend", got)
		}
	})
}

// draining is the change after which the backend gets no new connections.
func draining(id service.ID, protocol service.Protocol, flags service.Flags, backend string) service.Diff {
	kept := map[string]string{"10.0.0.1": "10.0.0.2", "10.0.0.2": "10.0.0.1"}[backend]
	d := frontendOf(id, protocol, flags, "10.96.0.1:80", kept)
	d.SetMembers = append(d.SetMembers, service.MemberEntry{
		Member: service.Member{ID: id, Backend: netip.AddrPortFrom(netip.MustParseAddr(backend), port)}, Draining: true,
	})
	d.DeleteBackends = []service.Slot{{ID: id, Index: 1}}
	return d
}

// backendNamed is the address of the backend that gave an answer.
var backendNamed = map[string]string{"web1 10.0.0.9": "10.0.0.1", "web2 10.0.0.9": "10.0.0.2"}

func TestAffinityEndsWithDrainingBackend(t *testing.T) {
	s := newSite(t)
	p := s.run(frontendOf(1, service.TCP, service.Affinity, "10.96.0.1:80", "10.0.0.1", "10.0.0.2"))
	first := s.client.do(t, kinds[0]).Answers[0]
	if err := p.Change(draining(1, service.TCP, service.Affinity, backendNamed[first])); err != nil {
		t.Fatal(err)
	}
	if got := s.client.do(t, kinds[0]); got.Error != "" || got.Answers[0] == first {
		t.Errorf("got %+v after %s", got, first)
	}
}

func TestAffinityEndsWithItsTimeout(t *testing.T) {
	s := newSite(t)
	p := s.run(frontendOf(1, service.TCP, service.Affinity, "10.96.0.1:80", "10.0.0.1", "10.0.0.2"))
	first := s.client.do(t, kinds[0]).Answers[0]
	type affinity struct {
		Used    uint64
		Backend endpoint
		Zero    uint32
	}
	table := kernelTable[[16]byte, affinity]{p.objects.Affinities}
	for range 64 {
		var err error
		for client, a := range maps.Collect(table.All(&err)) {
			a.Used -= uint64(2 * time.Hour) // the timeout is one hour
			if _, err := table.Put(client, a); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		got := s.client.do(t, kinds[0])
		if got.Error != "" {
			t.Fatal(got.Error)
		}
		if got.Answers[0] != first {
			return
		}
	}
	t.Error("the client kept its backend")
}

func TestEntryOfPeerEndsWithSocket(t *testing.T) {
	s := newSite(t)
	p := s.run(both(2))
	for range 3 {
		for _, kind := range kinds {
			if got := s.client.do(t, kind); got.Error != "" {
				t.Fatal(got.Error)
			}
		}
	}
	var err error
	for socket, peer := range (kernelTable[uint64, [44]byte]{p.objects.Peers}).All(&err) {
		t.Errorf("the closed socket %d has the peer %v", socket, peer)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestSecondConnectForgetsService(t *testing.T) {
	s := newSite(t)
	s.run(both(1))
	again := kinds[3]
	again.Then = "10.0.0.1:8080" // the backend itself
	got := s.client.do(t, again)
	if got.Error != "" || got.Peer != again.Then || got.Sources[0] != again.Then {
		t.Errorf("got %+v, want %s", got, again.Then)
	}
}

func TestHairpinReachesOwnPod(t *testing.T) {
	s := newSite(t)
	s.run(join(frontendOf(1, service.TCP, 0, "10.96.0.1:80", "10.0.0.9"), frontendOf(2, service.UDP, 0, "10.96.0.1:80", "10.0.0.9")))
	for _, kind := range []request{kinds[0], kinds[3], kinds[6]} {
		t.Run(kind.Name, func(t *testing.T) {
			if got := s.client.do(t, kind); got.Error != "" || got.Answers[0] != "pod 10.0.0.9" || got.Sources[0] != kind.To {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestHostAndOtherGroupsAreLeftAlone(t *testing.T) {
	s := newSite(t)
	s.run(join(both(1), frontendOf(0, service.UDP, service.Refuse, "127.0.0.9:80")))
	direct := request{Type: unix.SOCK_STREAM, Connect: true, To: "10.0.0.1:8080"}
	if got := s.client.do(t, direct); got.Error != "" || got.Peer != direct.To {
		t.Errorf("a direct connection got %+v", got)
	}
	quick := kinds[0]
	quick.Timeout = 200 * time.Millisecond
	outside := startClient(t, s.pod, filepath.Dir(s.group))
	if got := outside.do(t, quick); got.Error == "" {
		t.Errorf("a process outside of the group got %+v", got)
	}
	// The loader's own namespace is the host's.
	refused := request{Type: unix.SOCK_DGRAM, Connect: true, Silent: true, To: "127.0.0.9:80"}
	if got := s.client.do(t, refused); got.Error != unix.ECONNREFUSED.Error() {
		t.Errorf("the pod got %+v", got)
	}
	if got := startClient(t, nil, s.group).do(t, refused); got.Error != "" {
		t.Errorf("a process on the host's network got %+v", got)
	}
}

func TestPassLeavesDestination(t *testing.T) {
	s := newSite(t)
	s.run(join(frontendOf(0, service.TCP, service.Pass, "10.0.0.1:8080"), frontendOf(0, service.UDP, service.Pass, "10.0.0.1:8080")))
	for _, kind := range []request{kinds[0], kinds[3], kinds[6]} {
		kind.To = "10.0.0.1:8080"
		if got := s.client.do(t, kind); got.Error != "" || got.Answers[0] != "web1 10.0.0.9" {
			t.Errorf("%s: got %+v", kind.Name, got)
		}
	}
}

func TestProgramsOutliveAgent(t *testing.T) {
	s := newSite(t)
	p := s.run(both(2))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	reach := func(when string) {
		t.Helper()
		for _, kind := range kinds {
			if got := s.client.do(t, kind); got.Error != "" || got.Sources[0] != kind.To {
				t.Errorf("%s, %s: got %+v", when, kind.Name, got)
			}
		}
	}
	reach("without the loader")
	next := s.load()
	known, err := next.Known()
	if err != nil || len(known) != 4 {
		t.Errorf("known are %v, %v", known, err)
	}
	reach("with a new loader before its first entries")
	if err := next.Replace(both(1)); err != nil {
		t.Fatal(err)
	}
	reach("with a new loader")
	if err := next.Attach(); err != nil {
		t.Fatal(err)
	}
	reach("with new programs")
	if want := (Entries{4, 4, 2}); next.Entries() != want {
		t.Errorf("%v entries, want %v", next.Entries(), want)
	}
}

func TestKilledLoadersBreakNoConnection(t *testing.T) {
	s := newSite(t)
	runLoader(t, s.node)
	ctx, stop := context.WithCancel(context.Background())
	var traffic sync.WaitGroup
	count := 0
	traffic.Go(func() {
		for ; ctx.Err() == nil; count++ {
			kind := kinds[count%len(kinds)]
			if got := s.client.do(t, kind); got.Error != "" || got.Sources[0] != kind.To {
				t.Errorf("%s: got %+v", kind.Name, got)
			}
		}
	})
	for range 5 {
		runLoader(t, s.node)
	}
	stop()
	traffic.Wait()
	if count < len(kinds) {
		t.Errorf("only %d connections meanwhile", count)
	}
}

func TestRemovedDirectoryEndsTranslation(t *testing.T) {
	s := newSite(t)
	p := s.run(both(2))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	quick := kinds[0]
	quick.Timeout = 100 * time.Millisecond
	waitFor(t, "the programs are detached", func() bool { return s.client.do(t, quick).Error != "" })
	s.run(both(2)) // from scratch
	if got := s.client.do(t, kinds[0]); got.Error != "" {
		t.Error(got.Error)
	}
}

// waitFor waits for the kernel, which detaches programs in the background.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal("not yet: " + what)
		}
	}
}

func TestLoadRefusesWithRemedy(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct{ name, dir, group, want string }{
		{"no bpffs", filepath.Join(t.TempDir(), "spiderpool"), n.group, "must be a bpffs; mount -t bpf bpf /sys/fs/bpf"},
		{"no group", n.dir, t.TempDir(), "must be a control group v2; mount -t cgroup2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load(c.dir, c.group); err == nil || !contains(err, c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("another load balancer", func(t *testing.T) {
		n.run(service.Diff{})
		other := &node{t: t, dir: filepath.Join(filepath.Dir(n.dir), "other"), group: n.group}
		_, err := Load(other.dir, other.group)
		if err == nil || !contains(err, "another load balancer translates the connections of "+n.group+": spider_connect4 (ID ") {
			t.Fatalf("got %v", err)
		}
		event := observe.ServicesLeftToKubeProxy(err.Error())
		if err := docblocks.Shows("services-left", fmt.Sprintf("%s %s %s", event.Type, event.Reason, event.Text)); err != nil {
			t.Error(err)
		}
	})
}

func TestGroupIsFoundInAnotherMount(t *testing.T) {
	n := newNode(t)
	sub := filepath.Join(n.group, "pod")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(sub)
	got, err := pathOf(filepath.Dir(n.group), sub)
	if want := "/" + filepath.Base(n.group) + "/pod"; got != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestFullMapKeepsOtherServices(t *testing.T) {
	s := newSite(t)
	p := s.load()
	limit := p.tables.frontends.Limit()
	d := both(2)
	for i := range limit {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), 80)
		d.SetFrontends = append(d.SetFrontends, service.FrontendEntry{
			FrontendKey: service.FrontendKey{Addr: to.Addr(), Port: 80, Protocol: service.TCP},
			Frontend:    service.Frontend{Flags: service.Refuse},
		})
	}
	err := p.Replace(d)
	want := fmt.Sprintf("the eBPF map frontends is full (%d entries): kube-proxy serves ", limit)
	if err == nil || !contains(err, want) {
		t.Fatalf("got %v, want %s", err, want)
	}
	if p.Entries().Frontends != limit {
		t.Errorf("%d frontends, want %d", p.Entries().Frontends, limit)
	}
}

// BenchmarkFirstSync fills the maps for 10,000 services with 100,000 endpoints.
func BenchmarkFirstSync(b *testing.B) {
	var d service.Diff
	for i := range 10000 {
		id := service.ID(i + 1)
		at := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		d.SetFrontends = append(d.SetFrontends, service.FrontendEntry{
			FrontendKey: service.FrontendKey{Addr: at, Port: 80, Protocol: service.TCP}, Frontend: service.Frontend{ID: id, Count: 10},
		})
		for n := range 10 {
			d.SetBackends = append(d.SetBackends, service.BackendEntry{
				Slot: service.Slot{ID: id, Index: uint32(n)}, Backend: netip.AddrPortFrom(at, uint16(n+1)),
			})
		}
	}
	for b.Loop() {
		b.StopTimer()
		n := newNode(b)
		p := n.load()
		b.StartTimer()
		if err := p.Replace(d); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		var bytes uint64
		for _, m := range []*ebpf.Map{
			p.objects.Frontends, p.objects.Backends, p.objects.Members, p.objects.Affinities, p.objects.Flows, p.objects.Replies, p.objects.Peers,
		} {
			info, err := m.Info()
			if err != nil {
				b.Fatal(err)
			}
			size, _ := info.Memlock()
			bytes += size
		}
		b.ReportMetric(float64(bytes)/(1<<20), "kernel-MiB")
		if err := p.Change(set(1, 1, 5)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func TestTableContract(t *testing.T) {
	spec, err := loadService()
	if err != nil {
		t.Fatal(err)
	}
	const limit = 64
	small := spec.Maps[serviceMapBackends]
	small.MaxEntries = limit
	m, err := ebpf.NewMap(small)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	t.Run("kernel", func(t *testing.T) { testTable(t, kernelTable[slot, endpoint]{m}) })
	t.Run("fake", func(t *testing.T) { testTable(t, newFakeTable[slot, endpoint](limit)) })
}

func testTable(t *testing.T, table table[slot, endpoint]) {
	first, second := endpoint{Zero: [2]byte{1}}, endpoint{Zero: [2]byte{2}}
	for i := range table.Limit() {
		if added, err := table.Put(slot{1, uint32(i)}, first); !added || err != nil {
			t.Fatalf("entry %d: added %v, %v", i, added, err)
		}
	}
	if added, err := table.Put(slot{1, 0}, second); added || err != nil {
		t.Errorf("a new value in the full table: added %v, %v", added, err)
	}
	if added, err := table.Put(slot{2, 0}, first); added || err != errFull {
		t.Errorf("a new key in the full table: added %v, %v", added, err)
	}
	var err error
	count := 0
	for k, v := range table.All(&err) {
		count++
		if want := first; k != (slot{1, 0}) && v != want {
			t.Fatalf("%v has %v", k, v)
		}
	}
	if count != table.Limit() || err != nil {
		t.Errorf("read %d entries, %v", count, err)
	}
	for _, want := range []bool{true, false} {
		if deleted, err := table.Delete(slot{1, 0}); deleted != want || err != nil {
			t.Errorf("deleted %v, %v, want %v", deleted, err, want)
		}
	}
	if added, err := table.Put(slot{2, 0}, first); !added || err != nil {
		t.Errorf("a new key after the deletion: added %v, %v", added, err)
	}
}
