package ipamtest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/wire"
)

// interfaceOf identifies a release: a container and an interface.
type interfaceOf struct{ container, name string }

func keyOf(at wire.Attachment) interfaceOf { return interfaceOf{at.ContainerID, at.Interface} }

// memoryJournal is a journal that outlives a service, as a disk does.
type memoryJournal struct {
	mu         sync.Mutex
	freed      *sync.Cond // a replay of a release has ended
	kept       map[interfaceOf]wire.Attachment
	superseded map[interfaceOf]int // number of calls
	busy       map[interfaceOf]bool
}

func newMemoryJournal() *memoryJournal {
	j := &memoryJournal{kept: map[interfaceOf]wire.Attachment{}, superseded: map[interfaceOf]int{}, busy: map[interfaceOf]bool{}}
	j.freed = sync.NewCond(&j.mu)
	return j
}

func (j *memoryJournal) Begin(at wire.Attachment) (finish func(keep bool) error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at.NetNS = "" // not stored
	begun := j.superseded[keyOf(at)]
	return func(keep bool) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		if keep && j.superseded[keyOf(at)] == begun {
			j.kept[keyOf(at)] = at
		}
		return nil
	}
}

func (j *memoryJournal) Supersede(ctx context.Context, at wire.Attachment) (kept bool, err error) {
	defer context.AfterFunc(ctx, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.freed.Broadcast()
	})()
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.busy[keyOf(at)] {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		j.freed.Wait()
	}
	_, kept = j.kept[keyOf(at)]
	delete(j.kept, keyOf(at))
	j.superseded[keyOf(at)]++
	return kept, nil
}

func (j *memoryJournal) Replay(ctx context.Context, commit func(context.Context, wire.Attachment) error) (left int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, key := range slices.Collect(maps.Keys(j.kept)) {
		at, ok := j.kept[key]
		if !ok || j.busy[key] {
			continue
		}
		j.busy[key] = true
		j.mu.Unlock()
		err := commit(ctx, at)
		j.mu.Lock()
		delete(j.busy, key)
		j.freed.Broadcast()
		if err != nil {
			return len(j.kept), err
		}
		delete(j.kept, key)
	}
	return len(j.kept), nil
}

// JournalContract tests the requirements of every journal. fresh returns two journals
// of one store, as two processes have them.
func JournalContract(t *testing.T, fresh func(t *testing.T) (a, b ipam.Journal)) {
	one := wire.Attachment{ContainerID: "c1", Interface: "eth0", PodNamespace: "ns", PodName: "a", PodUID: "u"}
	for name, run := range map[string]func(t *testing.T, a, b ipam.Journal){
		"KeptReleaseIsReplayedOnce": func(t *testing.T, a, b ipam.Journal) {
			other := one
			other.Interface = "net1"
			for _, at := range []wire.Attachment{one, other, one} {
				finish(t, a.Begin(at), true)
			}
			replays(t, b, nil, one, other)
			replays(t, a, nil)
		},
		"DroppedReleaseIsNotReplayed": func(t *testing.T, a, b ipam.Journal) {
			finish(t, a.Begin(one), false)
			replays(t, b, nil)
		},
		"FailedCommitLeavesRelease": func(t *testing.T, a, b ipam.Journal) {
			finish(t, a.Begin(one), true)
			replays(t, b, errors.New("away"), one)
			replays(t, a, nil, one)
		},
		"SupersedeRemovesKeptRelease": func(t *testing.T, a, b ipam.Journal) {
			finish(t, a.Begin(one), true)
			supersedes(t, b, one, true)
			supersedes(t, b, one, false)
			replays(t, a, nil)
		},
		"SupersedeStopsBegunRelease": func(t *testing.T, a, b ipam.Journal) {
			late := a.Begin(one)
			supersedes(t, b, one, false)
			finish(t, late, true)
			replays(t, a, nil)
			finish(t, a.Begin(one), true) // a DEL after the ADD
			replays(t, a, nil, one)
		},
		"SupersedeWaitsForReplay": supersedeWaits(one),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := fresh(t)
			run(t, a, b)
		})
	}
}

// supersedeWaits: an ADD must not come between the decision of a replay and its commit.
func supersedeWaits(at wire.Attachment) func(t *testing.T, a, b ipam.Journal) {
	return func(t *testing.T, a, b ipam.Journal) {
		finish(t, a.Begin(at), true)
		_, err := a.Replay(t.Context(), func(context.Context, wire.Attachment) error {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := b.Supersede(ended, at); err == nil {
				t.Error("Supersede did not wait for the replay")
			}
			replays(t, b, nil) // the other agent leaves it alone
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		supersedes(t, b, at, false)
	}
}

func finish(t *testing.T, f func(keep bool) error, keep bool) {
	t.Helper()
	if err := f(keep); err != nil {
		t.Error(err)
	}
}

func supersedes(t *testing.T, j ipam.Journal, at wire.Attachment, want bool) {
	t.Helper()
	if kept, err := j.Supersede(t.Context(), at); err != nil || kept != want {
		t.Errorf("Supersede: %t, %v; want %t", kept, err, want)
	}
}

// replays expects that Replay calls commit for these releases.
func replays(t *testing.T, j ipam.Journal, fault error, want ...wire.Attachment) {
	t.Helper()
	got := map[wire.Attachment]bool{}
	left, err := j.Replay(t.Context(), func(_ context.Context, at wire.Attachment) error {
		got[at] = true
		return fault
	})
	if !errors.Is(err, fault) || fault != nil && left != len(want) {
		t.Errorf("Replay: %d left, %v; want %v", left, err, fault)
	}
	for _, at := range want {
		if !got[at] {
			t.Errorf("%+v was not replayed", at)
		}
	}
	if len(got) != len(want) {
		t.Errorf("replayed %+v, want %+v", got, want)
	}
}
