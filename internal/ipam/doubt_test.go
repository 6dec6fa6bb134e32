package ipam_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// slowStore keeps writes on their way: the client gives up, and the server carries them
// out later, like an etcd without a quorum for a moment.
type slowStore struct {
	*ipamtest.Store
	mu      sync.Mutex
	slow    bool
	pending []lease.Block
}

func (s *slowStore) Put(ctx context.Context, b lease.Block) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slow {
		s.pending = append(s.pending, b)
		return "", context.DeadlineExceeded
	}
	return s.Store.Put(ctx, b)
}

// Multus hot plug does DEL and ADD with one container and interface.
func TestLateReleaseKeepsLaterAdd(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	slow := &slowStore{Store: cluster.Store}
	cluster.Configure = func(c *alloc.Config) { c.Blocks = slow }
	s := cluster.Service("n1")
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	cluster.Advance(time.Hour)
	slow.slow = true
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	slow.slow = false
	addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")}).Addresses[0].Prefix.Addr()
	for _, late := range slow.pending {
		if _, err := slow.Store.Put(t.Context(), late); !errors.Is(err, alloc.ErrConflict) {
			t.Errorf("the late release: %v, want a conflict", err)
		}
	}
	if l := held(t, cluster.Store)[addr]; l.ContainerID != attachment("a").ContainerID {
		t.Errorf("the last ADD gave %s, and its lease is %+v", addr, l)
	}
}

func TestDeletedBlockComesBack(t *testing.T) {
	cluster := newFakeCluster(t, "a", "gone")
	s := cluster.Service("n1")
	addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")}).Addresses[0].Prefix.Addr()
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("gone")})
	cluster.Sandbox("n1", attachment("a").ContainerID, "uid-a")
	cluster.Advance(time.Hour)
	loseBlock(t, cluster, s, addr)
	if err := errors.Join(s.Allocator.ReadUnread(t.Context()), s.RestoreLost(t.Context())); err != nil {
		t.Fatal(err)
	}
	leases := held(t, cluster.Store)
	if l := leases[addr]; l.PodUID != "uid-a" || len(leases) != 1 {
		t.Errorf("leases %v, want that of the running sandbox", leases)
	}
	if events := strings.Join(cluster.TakeEvents(), "\n"); strings.Count(events, "LeaseRestored") != 1 || !strings.Contains(events, "LeaseRestored default/a: another client removed the lease of "+addr.String()) {
		t.Errorf("events %q", events)
	}
}

// loseBlock deletes the block of the address as a user does, and tells the service.
func loseBlock(t *testing.T, cluster *ipamtest.FakeCluster, s *ipam.Service, addr netip.Addr) {
	t.Helper()
	b, err := cluster.Store.Get(t.Context(), inet.BlockOf(addr))
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Store.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s.Allocator.ObserveDeleted(b.Base, b.Version)
}

// A runtime may list a sandbox only after its ADDs.
func TestUnlistedNewSandboxKeepsAddress(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")}).Addresses[0].Prefix.Addr()
	loseBlock(t, cluster, s, addr)
	if err := errors.Join(s.Allocator.ReadUnread(t.Context()), s.RestoreLost(t.Context())); err != nil {
		t.Fatal(err)
	}
	if l := held(t, cluster.Store)[addr]; l.PodUID != "uid-a" {
		t.Errorf("the lease of the new sandbox is %+v", l)
	}
}

// While the runtime does not answer, each sandbox counts as alive.
func TestLostLeaseComesBackWithoutRuntime(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	var log bytes.Buffer
	cluster.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := cluster.Service("n1")
	addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")}).Addresses[0].Prefix.Addr()
	loseBlock(t, cluster, s, addr)
	cluster.SetRuntimeAway("n1", true)
	if err := errors.Join(s.Allocator.ReadUnread(t.Context()), s.RestoreLost(t.Context())); err != nil {
		t.Fatal(err)
	}
	if l := held(t, cluster.Store)[addr]; l.PodUID != "uid-a" {
		t.Errorf("the lease is %+v", l)
	}
	if !strings.Contains(log.String(), "the container runtime did not list its sandboxes; restoring the removed leases of all of them") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestStolenAddressIsReported(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	var log bytes.Buffer
	cluster.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := cluster.Service("n1")
	addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")}).Addresses[0].Prefix.Addr()
	cluster.Sandbox("n1", attachment("a").ContainerID, "uid-a")
	b, err := cluster.Store.Get(t.Context(), inet.BlockOf(addr))
	if err != nil {
		t.Fatal(err)
	}
	thief := lease.Holder{Attachment: lease.Attachment{ContainerID: "thief", Interface: "eth0"}, Pod: lease.PodKey{Namespace: "default", Name: "thief"}, Node: "n2"}
	if _, err := cluster.Store.Put(t.Context(), b.With(lease.Lease{Addr: addr, State: lease.InUse, Pool: "p", Holder: thief})); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Allocator.Read(t.Context(), b.Base), s.RestoreLost(t.Context())); err != nil {
		t.Fatal(err)
	}
	after, err := cluster.Store.Get(t.Context(), b.Base)
	if err != nil {
		t.Fatal(err)
	}
	if former := after.FormerOf(addr); len(former) != 1 || former[0].PodUID != "uid-a" {
		t.Errorf("former sandboxes %v, want the robbed one", former)
	}
	if events := strings.Join(cluster.TakeEvents(), "\n"); !strings.Contains(events, "IPConflict default/a: "+addr.String()) || !strings.Contains(events, "pod default/thief on node n2") {
		t.Errorf("events %q", events)
	}
	if want := `level=ERROR msg="two pods have one address" ip=` + addr.String(); !strings.Contains(log.String(), want) {
		t.Errorf("log:\n%s", log.String())
	}
}
