//go:build kernel

package flowpods

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/flows"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// fake notes the pods of namespaces.
type fake struct {
	mu   sync.Mutex
	pods map[string]string // by path
	node bool
}

func (f *fake) AttachNode(*linux.Namespace) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node = true
	return nil
}

func (f *fake) Attach(_ *linux.Namespace, path string, pod flows.Pod) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pods[path] == "" {
		f.pods[path] = pod.Name.String() + " " + pod.UID + " " + pod.Pair
	}
	return nil
}

func (f *fake) Detach(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, path)
}

func (f *fake) Attached() (paths []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path := range f.pods {
		paths = append(paths, path)
	}
	return paths
}

// node is a node whose pods are namespaces in a directory.
type node struct {
	*Follower
	*fake
	t      *testing.T
	leases []lease.Lease
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, fake: &fake{pods: map[string]string{}}}
	n.Follower = New(n.fake, func() error { return nil }, n.held, t.TempDir(), slog.New(slog.DiscardHandler))
	return n
}

// pod makes the namespace of a pod with an address, and returns its path.
func (n *node) pod(name, addr string) (path string) {
	n.t.Helper()
	m, peer := linuxtest.NewMachine(n.t, name), linuxtest.NewMachine(n.t, "peer")
	linuxtest.Wire(m, "eth0", peer, "eth0")
	m.Addr("eth0", addr+"/24")
	path = filepath.Join(n.dir, name)
	if err := os.Symlink(m.Path(), path); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func (n *node) held() []lease.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases
}

func (n *node) lease(name, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leases = append(n.leases, lease.Lease{Addr: netip.MustParseAddr(addr), Holder: lease.Holder{
		Attachment: lease.Attachment{ContainerID: strings.Repeat("ab", 32)}, Pod: lease.PodKey{Namespace: "default", Name: name}, PodUID: "uid-" + name,
	}})
}

// expect waits for the pods of the namespaces.
func (n *node) expect(want map[string]string) {
	n.t.Helper()
	var got map[string]string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		n.mu.Lock()
		got = maps.Clone(n.pods)
		n.mu.Unlock()
		if maps.Equal(got, want) {
			return
		}
	}
	n.t.Fatal(cmp.Diff(want, got))
}

func TestOnlyPodsWithLeasesAreObserved(t *testing.T) {
	n := newNode(t)
	web := n.pod("web", "10.6.0.2")
	n.pod("foreign", "10.7.0.2")
	n.lease("web", "10.6.0.2")
	if err := os.WriteFile(filepath.Join(n.dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	n.expect(map[string]string{web: "default/web uid-web spvabababababab"})

	n.lease("db", "10.6.0.3") // an ADD
	db := n.pod("db", "10.6.0.3")
	n.Added()
	n.expect(map[string]string{web: "default/web uid-web spvabababababab", db: "default/db uid-db spvabababababab"})

	n.mu.Lock()
	n.leases = n.leases[1:] // a DEL
	n.mu.Unlock()
	if err := os.Remove(web); err != nil {
		t.Fatal(err)
	}
	n.Removed("/var/run/netns/web")
	n.expect(map[string]string{db: "default/db uid-db spvabababababab"})
	if err := os.Remove(db); err != nil { // a DEL that another agent served
		t.Fatal(err)
	}
	n.Added()
	n.expect(map[string]string{})
	cancel()
	<-done
	if !n.fake.node {
		t.Error("the node is not observed")
	}
}

func TestNothingIsObservedBeforeLeases(t *testing.T) {
	n := newNode(t)
	n.lease("web", "10.6.0.2")
	n.pod("web", "10.6.0.2")
	n.ready = func() error { return errors.New("not yet") }
	host, err := linux.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	n.look(host, true)
	n.expect(map[string]string{})
}
