package ipam_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
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
		if err := other.Allocator.Read(t.Context(), b.Base); err != nil {
			t.Fatal(err)
		}
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
			return alloc.ErrConflict
		}
		return nil
	}
	_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Msg, "conflicts with other nodes persisted") {
		t.Errorf("got %v", err)
	}
}
