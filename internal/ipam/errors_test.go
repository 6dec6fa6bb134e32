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
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
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

// unreadablePools cannot be read from the API server.
type unreadablePools struct{ ipam.Pools }

func (unreadablePools) Get(context.Context, string) (*pool.Pool, error) { return nil, errAway }
func (unreadablePools) List(context.Context, int) ([]*pool.Pool, error) { return nil, errAway }

var errAway = errors.New("connection refused")

// The pod may get an address of an unread pool later, so the runtime must try again.
func TestUnreadablePoolsFailAddForNow(t *testing.T) {
	for name, pools := range map[string]string{
		"unknown pool":                 `["elsewhere"]`,
		"unknown pool beside full one": `["full","elsewhere"]`,
		"wildcard":                     `["else*"]`,
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t)
			cluster.SetPool(rangePool(t, "full", "10.1.0.0/24", "10.1.0.5"), true)
			s := cluster.Service("n1")
			annotate := func(pod, pools string) {
				cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
					PodKey: lease.PodKey{Namespace: "default", Name: pod}, UID: "uid-" + pod,
					Annotations: map[string]string{"ipam.spidernet.io/ippool": `{"ipv4":` + pools + `}`},
				}})
			}
			annotate("first", `["full"]`)
			mustAdd(t, s, wire.AddRequest{Attachment: attachment("first")})
			s.Catalog.Pools = unreadablePools{}
			annotate("second", pools)
			_, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("second")})
			var failure *ipam.Error
			if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !errors.Is(err, errAway) {
				t.Errorf("got %v, want to try again", err)
			}
		})
	}
}

func TestNoAddressSaysWhatPodNeeds(t *testing.T) {
	const needs = "the pod needs 2 addresses for all its interfaces"
	cluster := newFakeCluster(t, "a")
	cluster.SetPool(rangePool(t, "p", "10.1.0.0/24", "10.1.0.5"), true)
	cluster.SetNetwork(pool.NetworkAttachment{Namespace: "default", Name: "n"}, ipam.Network{IPAM: true, Name: "n"})
	cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{
		PodKey: lease.PodKey{Namespace: "default", Name: "two"}, UID: "uid-two", Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "n"},
	}})
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("two")}); err == nil || !strings.Contains(err.Error(), needs) {
		t.Errorf("one free address: %v, want that %s", err, needs)
	}
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("two")}); err == nil || strings.Contains(err.Error(), needs) {
		t.Errorf("no free address: %v, want only that", err)
	}
}

// fullDisk is a journal that cannot store a release.
type fullDisk struct{ ipam.Journal }

func (fullDisk) Begin(wire.Attachment) func(bool) error {
	return func(bool) error { return errors.New("no space left on device") }
}

func TestLostReleaseIsLogged(t *testing.T) {
	for name, full := range map[string]bool{"release stored again": false, "full disk": true} {
		t.Run(name, func(t *testing.T) {
			cluster := newFakeCluster(t, "a")
			var log bytes.Buffer
			cluster.Log = slog.New(slog.NewTextHandler(&log, nil))
			s := cluster.Service("n1")
			mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
			cluster.SetAway(true)
			if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
				t.Fatal(err)
			}
			if full {
				s.Journal = fullDisk{s.Journal}
			}
			if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err == nil {
				t.Fatal("an ADD without an API server succeeded")
			}
			if logged := strings.Contains(log.String(), "could not store a release on disk again"); logged != full {
				t.Errorf("logged %t:\n%s", logged, log.String())
			}
		})
	}
}

func TestCheckAcceptsAddressesInAnyOrder(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	cluster.SetPool(rangePool(t, "p6", "fd00::/64", "fd00::5"), true)
	s := cluster.Service("n1")
	reply := mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	v4, v6 := reply.Addresses[0].Prefix.Addr(), reply.Addresses[1].Prefix.Addr()
	for _, addrs := range [][]netip.Addr{{v4, v6}, {v6, v4}} {
		if err := s.Check(t.Context(), wire.CheckRequest{Attachment: attachment("a"), Addresses: addrs}); err != nil {
			t.Errorf("%v: %v", addrs, err)
		}
	}
}

func TestReclaimNeedsStateOfNode(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	cluster.SetPod(ipamtest.FakePod{Node: "n1", Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: "a"}, UID: "uid-a"},
		State: reclaim.Pod{Terminating: true}})
	cluster.Advance(time.Hour)
	s.Cluster = unknownNode{s.Cluster}
	err := s.Reclaim(t.Context(), reclaim.Policy{Enabled: true, MinAge: time.Minute, ZombieOnReadyNode: true, ZombieOnNotReadyNode: true})
	if leases := held(t, cluster.Store); !errors.Is(err, errAway) || len(leases) != 1 {
		t.Errorf("got %v with leases %v, want the error and the lease", err, leases)
	}
}

// unknownNode is a cluster whose Node object cannot be read.
type unknownNode struct{ ipam.Cluster }

func (unknownNode) NodeState(context.Context) (reclaim.Node, error) { return reclaim.Node{}, errAway }

// A restarted agent knows the addresses of an endpoint from leases, and the rest from
// pools.
func TestUnreadablePoolFailsEndpoint(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	mustAdd(t, cluster.Service("n1"), wire.AddRequest{Attachment: attachment("a")})
	s := cluster.Restart("n1")
	s.Catalog.DeletePool("p")
	s.Catalog.Pools = unreadablePools{}
	name := lease.PodKey{Namespace: "default", Name: "a"}
	if got, err := s.Endpoint(t.Context(), ipam.EndpointKey{PodKey: name, Pod: name, PodUID: "uid-a"}, nil); !errors.Is(err, errAway) {
		t.Errorf("got %s, %v, want the error of the read", text(got), err)
	}
}

// The runtime must repeat a DEL that is neither committed nor on disk.
func TestLostReleaseFailsDel(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	mustAdd(t, s, wire.AddRequest{Attachment: attachment("a")})
	s.Journal = fullDisk{s.Journal}
	cluster.SetAway(true)
	err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Details, "no space left on device") {
		t.Errorf("got %v, want to try again because of the disk", err)
	}
}
