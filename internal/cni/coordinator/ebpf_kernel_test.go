//go:build kernel

package coordinator

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/service"
)

// translator translates the connections of the test's process while it is in the control
// group of pods.
type translator struct {
	t           *testing.T
	group, home string // the files cgroup.procs
	programs    *bpf.Programs
}

func newTranslator(t *testing.T) *translator {
	t.Helper()
	mount := func(kind string) string {
		dir := t.TempDir()
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
			t.Fatalf("mount a %s: %v", kind, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	v2 := mount("cgroup2")
	group, err := os.MkdirTemp(v2, "spiderpool-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	programs, err := bpf.Load(filepath.Join(mount("bpf"), "spiderpool"), group)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = programs.Close() })
	if err := programs.Attach(); err != nil {
		t.Fatal(err)
	}
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, home, _ := strings.Cut(string(membership), "0::")
	home, _, _ = strings.Cut(home, "\n")
	return &translator{t, filepath.Join(group, "cgroup.procs"), filepath.Join(v2, home, "cgroup.procs"), programs}
}

// under runs f in the control group.
func (tr *translator) under(f func()) {
	tr.t.Helper()
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(tr.group, pid, 0); err != nil {
		tr.t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(tr.home, pid, 0); err != nil {
			tr.t.Fatal(err)
		}
	}()
	f()
}

// set makes the services those of the programs.
func (tr *translator) set(services []service.FrontendKey, backends []netip.AddrPort) {
	tr.t.Helper()
	var d service.Diff
	for i, key := range services {
		id := service.ID(i + 1)
		d.SetFrontends = append(d.SetFrontends, service.FrontendEntry{FrontendKey: key, Frontend: service.Frontend{ID: id, Count: 1}})
		d.SetBackends = append(d.SetBackends, service.BackendEntry{Slot: service.Slot{ID: id}, Backend: backends[i]})
		d.SetMembers = append(d.SetMembers, service.MemberEntry{Member: service.Member{ID: id, Backend: backends[i]}})
	}
	if err := tr.programs.Replace(d); err != nil {
		tr.t.Fatal(err)
	}
}

// translated are the entries for a client on the node with this address: it translates
// cluster IPs, and the node ports of its own node.
func translated(services []clusterService, node string) (keys []service.FrontendKey, backends []netip.AddrPort) {
	for _, s := range services {
		if s.port != 80 && s.ip != node {
			continue
		}
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			keys = append(keys, service.FrontendKey{Addr: netip.MustParseAddr(s.ip), Port: uint16(s.port), Protocol: protocol})
			backends = append(backends, netip.AddrPortFrom(netip.MustParseAddr(s.backend), 8080))
		}
	}
	return keys, backends
}

// TestGuideTrafficByEBPF walks the paths to services with the sockets of pods translated,
// next to the rules of kube-proxy, as on a node with service.mode ebpf.
func TestGuideTrafficByEBPF(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		v, tr := newVPC(t, kind), newTranslator(t)
		for i, family := range []string{"ip", "ip6"} {
			services, walks := v.walksOf(i)
			loadServices(t, v.master, family, services...)
			for _, w := range walks {
				var node string
				switch {
				case w.byEBPF == "":
					continue
				case w.from == v.a.Machine || w.from == v.b.Machine:
					node = nodes[i]
				case w.from == v.c.Machine:
					node = guideWorkers[i]
				}
				under := func(f func()) { f() } // the node and hosts elsewhere
				if node != "" {
					tr.set(translated(services, node))
					under = tr.under
				}
				w.ask(t, []string{kind, "eBPF", family}, w.byEBPF, under)
			}
		}
	}, "vlan")
}
