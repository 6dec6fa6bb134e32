package ipam_test

import (
	"errors"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// newWorld returns a world with a default pool of 16 addresses and the pods of node n1.
func newWorld(t *testing.T, pods ...string) *ipamtest.World {
	t.Helper()
	w := ipamtest.NewWorld(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	t.Cleanup(w.Close)
	w.SetPool(rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"), true)
	for _, name := range pods {
		w.SetPod(ipamtest.WorldPod{Pod: ipam.Pod{Namespace: "default", Name: name, UID: "uid-" + name}, Node: "n1"})
	}
	return w
}

// attachment is eth0 of the pod's first sandbox.
func attachment(pod string) wire.Attachment {
	return wire.Attachment{ContainerID: "sandbox-" + pod, Interface: "eth0", PodNamespace: "default", PodName: pod, PodUID: "uid-" + pod}
}

// interruptedJournal calls between after the releases were read.
type interruptedJournal struct {
	ipam.Journal
	between    func()
	unreadable error
}

func (j *interruptedJournal) All() ([]ipam.Release, error) {
	releases, err := j.Journal.All()
	j.between()
	return releases, errors.Join(err, j.unreadable)
}

func TestReplayTakesNothingFromAnAddThatCameMeanwhile(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	first, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")})
	if err != nil {
		t.Fatal(err)
	}
	w.SetAway(true)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	w.SetAway(false)
	s.Journal = &interruptedJournal{Journal: s.Journal, between: func() {
		if again, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil || again.Addresses[0] != first.Addresses[0] {
			t.Errorf("ADD after the DEL gave %v, %v", again, err)
		}
	}}
	if _, err := s.Replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leases := held(t, w.Store); len(leases) != 1 {
		t.Errorf("the address of a living sandbox was freed: %v", leases)
	}
}

func TestReplayCommitsWhatCanBeReadAndSaysWhatCannot(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Service("n1")
	if _, err := s.Add(t.Context(), wire.AddRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	w.SetAway(true)
	if err := s.Delete(t.Context(), wire.DeleteRequest{Attachment: attachment("a")}); err != nil {
		t.Fatal(err)
	}
	w.SetAway(false)
	damaged := errors.New("one file is damaged")
	s.Journal = &interruptedJournal{Journal: s.Journal, between: func() {}, unreadable: damaged}
	left, err := s.Replay(t.Context())
	if left != 0 || !errors.Is(err, damaged) {
		t.Errorf("%d left, %v; want none and what is damaged", left, err)
	}
	if leases := held(t, w.Store); len(leases) != 0 {
		t.Errorf("not released: %v", leases)
	}
}
