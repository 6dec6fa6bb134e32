package console

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/view"
)

const (
	// buildEvery is the shortest time between two snapshots. A rollout of a hundred pods is one change of the pages.
	buildEvery = 2 * time.Second
	// idleAfter is the time without a reader after which changes build no snapshot.
	idleAfter = time.Minute
	// sampleEvery and maxSamples are those of the history of each pool: six hours.
	sampleEvery = 5 * time.Minute
	maxSamples  = 73
	// maxHistories limits the pools with a history. One has about 2 kB.
	maxHistories = 10_000
)

// board holds the present snapshot for all readers, and tells them about a new one.
type board struct {
	take func(ctx context.Context, now time.Time) (*snapshot, error)
	now  func() time.Time
	log  *slog.Logger
	// dirty has a value after a change of the cluster.
	dirty chan struct{}
	mu    struct {
		sync.Mutex
		snapshot *snapshot
		// outdated is whether the cluster changed since snapshot.
		outdated bool
		read     time.Time     // last
		next     chan struct{} // closed by the next snapshot
		history  map[string][]view.Sample
	}
}

func newBoard(take func(context.Context, time.Time) (*snapshot, error), now func() time.Time, log *slog.Logger) *board {
	b := &board{take: take, now: now, log: log, dirty: make(chan struct{}, 1)}
	b.mu.next, b.mu.history, b.mu.outdated = make(chan struct{}), map[string][]view.Sample{}, true
	return b
}

// changed tells that an object changed. It does not block.
func (b *board) changed() {
	select {
	case b.dirty <- struct{}{}:
	default:
	}
}

// run builds snapshots and the history of the pools until ctx ends.
func (b *board) run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() {
		for b.wait(ctx, sampleEvery) {
			b.sample(ctx)
		}
	})
	b.sample(ctx)
	for b.wait(ctx, buildEvery) {
		select {
		case <-ctx.Done():
		case <-b.dirty:
			b.outdate(ctx)
		}
	}
	work.Wait()
	return nil
}

// wait returns false if ctx ended before.
func (b *board) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// outdate builds a snapshot now if the last one has readers, and when the next reader comes otherwise.
func (b *board) outdate(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.outdated = true
	if b.now().Sub(b.mu.read) < idleAfter {
		if err := b.build(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("cannot read the cluster from memory", "err", err)
		}
	}
}

// build replaces the snapshot. The caller holds mu.
func (b *board) build(ctx context.Context) error {
	s, err := b.take(ctx, b.now())
	if err != nil {
		return err
	}
	s.generation = 1
	if b.mu.snapshot != nil {
		s.generation += b.mu.snapshot.generation
	}
	b.mu.snapshot, b.mu.outdated = s, false
	close(b.mu.next)
	b.mu.next = make(chan struct{})
	return nil
}

// current returns the present snapshot. It builds one if the cluster changed without a reader.
func (b *board) current(ctx context.Context) (*snapshot, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.read = b.now()
	if b.mu.snapshot == nil || b.mu.outdated && b.mu.read.Sub(b.mu.snapshot.at) >= buildEvery {
		if err := b.build(ctx); err != nil {
			return nil, err
		}
	}
	return b.mu.snapshot, nil
}

// follow returns the present generation and a channel that the next one closes. A follower counts as a reader.
func (b *board) follow() (generation uint64, next <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.read = b.now()
	if b.mu.snapshot != nil {
		generation = b.mu.snapshot.generation
	}
	return generation, b.mu.next
}

// sample adds the number of taken addresses of each pool to its history.
func (b *board) sample(ctx context.Context) {
	s, err := b.take(ctx, b.now())
	if err != nil {
		if ctx.Err() == nil {
			b.log.Warn("cannot read the pools from memory", "err", err)
		}
		return
	}
	b.record(s)
}

func (b *board) record(s *snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	history := make(map[string][]view.Sample, len(b.mu.history))
	for _, p := range s.state.Pools() {
		if len(history) == maxHistories {
			break
		}
		samples := append(b.mu.history[p.Name], view.Sample{At: s.at, Taken: p.Total - p.Free})
		history[p.Name] = samples[max(0, len(samples)-maxSamples):]
	}
	b.mu.history = history
}

// outlook returns the time until a pool is full, and the length of the history.
func (b *board) outlook(p view.Pool) (left time.Duration, grows bool, since time.Duration) {
	b.mu.Lock()
	history := append([]view.Sample{}, b.mu.history[p.Name]...)
	b.mu.Unlock()
	if len(history) == 0 {
		return 0, false, 0
	}
	history = append(history, view.Sample{At: b.now(), Taken: p.Total - p.Free})
	left, grows = view.TimeToFull(history, p.Free)
	return left, grows, history[len(history)-1].At.Sub(history[0].At)
}
