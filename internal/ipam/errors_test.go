package ipam_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

func TestFailedRollbackIsLogged(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	var log bytes.Buffer
	cluster.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := cluster.Service("n1")
	cluster.Store.After = func(netip.Addr) error {
		cluster.SetAway(true)
		return errors.New("connection reset")
	}
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
		t.Fatal("ADD succeeded without an answer of the store")
	}
	if !strings.Contains(log.String(), "could not roll back a failed ADD") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestReclaimReportsErrors(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	cluster.DeletePod(lease.PodKey{Namespace: "default", Name: "a"})
	cluster.Advance(time.Hour)
	cluster.SetAway(true)
	policy := reclaim.Policy{Enabled: true, MinAge: time.Minute}
	left, err := s.ReclaimOf(t.Context(), policy, "uid-a")
	if !errors.Is(err, ipamtest.ErrAway) || len(left) != 1 {
		t.Errorf("ReclaimOf = %v, %v; want uid-a and the error of the API server", left, err)
	}
	if err := s.Reclaim(t.Context(), policy); !errors.Is(err, ipamtest.ErrAway) {
		t.Errorf("Reclaim = %v, want the error of the API server", err)
	}
}

func TestCheckIgnoresLeaseOfOtherNode(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	reply, err := cluster.Service("n1").Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	if err != nil {
		t.Fatal(err)
	}
	other := cluster.Service("n2")
	for _, b := range cluster.Store.All() {
		other.Allocator.Observe(b)
	}
	err = other.Check(t.Context(), wire.CheckRequest{Attachment: attachment("a"), Addresses: []netip.Addr{reply.Addresses[0].Prefix.Addr()}})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Mismatch {
		t.Errorf("CHECK on another node: %v, want a mismatch", err)
	}
}

func TestAddAfterManyConflictsTriesLater(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	cluster.Store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			return ipam.ErrConflict
		}
		return nil
	}
	_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Msg, "conflicts with other nodes persisted") {
		t.Errorf("got %v", err)
	}
}

func TestCloseFailsQueuedRequests(t *testing.T) {
	store := &ipamtest.Store{}
	entered, release := make(chan struct{}), make(chan struct{})
	store.Before = func(operation string, _ netip.Addr) error {
		if operation == "put" {
			close(entered)
			<-release
		}
		return nil
	}
	a := newAllocator(t, "a", store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
	errs := make(chan error, 2)
	allocate := func(container string) {
		_, err := allocate(context.WithoutCancel(t.Context()), a, request("a", container, lease.Want{Interface: "eth0", Family: 4, Pools: []string{"p"}}))
		errs <- err
	}
	go allocate("first")
	<-entered
	go allocate("second")
	awaitQueued(a, 1)
	closed := make(chan struct{})
	go func() { a.Close(); close(closed) }()
	for stopping := false; !stopping; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		stopping = errors.Is(a.Release(ctx, lease.Attachment{ContainerID: "x", Interface: "eth0"}), context.Canceled)
		cancel()
	}
	close(release)
	<-closed
	first, second := <-errs, <-errs
	if first != nil && second != nil || !errors.Is(errors.Join(first, second), context.Canceled) {
		t.Errorf("got %v and %v, want one success and one canceled request", first, second)
	}
}
