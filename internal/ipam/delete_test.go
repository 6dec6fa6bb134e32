package ipam_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

var held, rangePool = ipamtest.Held, ipamtest.RangePool

// newFakeCluster returns a cluster with a default pool of 16 addresses and the pods of node n1.
func newFakeCluster(t *testing.T, pods ...string) *ipamtest.FakeCluster {
	t.Helper()
	cluster := ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	t.Cleanup(cluster.Close)
	cluster.SetPool(rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"), true)
	for _, name := range pods {
		cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: name}, UID: "uid-" + name}, Node: "n1"})
	}
	return cluster
}

// attachment is eth0 of the pod's first sandbox.
func attachment(pod string) wire.Attachment {
	return wire.Attachment{ContainerID: "sandbox-" + pod, Interface: "eth0", PodNamespace: "default", PodName: pod, PodUID: "uid-" + pod}
}

// interruptedJournal calls before ahead of each commit of a replay.
type interruptedJournal struct {
	ipam.Journal
	before     func()
	unreadable error
}

func (j *interruptedJournal) Replay(ctx context.Context, commit func(context.Context, wire.Attachment) error) (int, error) {
	left, err := j.Journal.Replay(ctx, func(ctx context.Context, at wire.Attachment) error {
		j.before()
		return commit(ctx, at)
	})
	return left, errors.Join(err, j.unreadable)
}

// deleteWithoutServer stores a release on disk.
func deleteWithoutServer(t *testing.T, cluster *ipamtest.FakeCluster, s *ipam.Service) {
	t.Helper()
	cluster.SetAway(true)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Error(err)
	}
	cluster.SetAway(false)
}

func TestReplayKeepsConcurrentAdd(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	deleteWithoutServer(t, cluster, s)
	var add sync.WaitGroup
	var again wire.AddReply
	s.Journal = &interruptedJournal{Journal: s.Journal, before: func() {
		add.Go(func() {
			var err error
			if again, err = s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
				t.Errorf("ADD after the DEL: %v", err)
			}
		})
	}}
	if _, err := s.Replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	add.Wait()
	leases := held(t, cluster.Store)
	if _, ok := leases[again.Addresses[0].Prefix.Addr()]; len(leases) != 1 || !ok {
		t.Errorf("the sandbox got %v, the leases are %v", again.Addresses, leases)
	}
}

func TestReplayReportsUnreadableReleases(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	deleteWithoutServer(t, cluster, s)
	damaged := errors.New("one file is damaged")
	s.Journal = &interruptedJournal{Journal: s.Journal, before: func() {}, unreadable: damaged}
	left, err := s.Replay(t.Context())
	if left != 0 || !errors.Is(err, damaged) {
		t.Errorf("%d left, %v; want none and what is damaged", left, err)
	}
	if leases := held(t, cluster.Store); len(leases) != 0 {
		t.Errorf("not released: %v", leases)
	}
}

func TestReplayToleratesRepeatedDel(t *testing.T) {
	cluster := newFakeCluster(t, "a")
	s := cluster.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	deleteWithoutServer(t, cluster, s)
	s.Journal = &interruptedJournal{Journal: s.Journal, before: func() { deleteWithoutServer(t, cluster, s) }}
	if left, err := s.Replay(t.Context()); err != nil || left != 0 {
		t.Errorf("%d left, %v", left, err)
	}
	if leases := held(t, cluster.Store); len(leases) != 0 {
		t.Errorf("not released: %v", leases)
	}
}
