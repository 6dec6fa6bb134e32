package readcache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/readcache"
)

var errRead = errors.New("read failed")

// TestCacheMatchesModel compares random sequences of calls with a model of two
// maps. The number that a read returns counts the reads so far.
func TestCacheMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		ttl := time.Duration(rapid.IntRange(0, 4).Draw(t, "ttl")) * time.Second
		maxValues := rapid.IntRange(0, 3).Draw(t, "max")
		cache := readcache.Cache[string, int]{TTL: ttl, Max: maxValues, Now: func() time.Time { return now }}
		reads, last := 0, map[string]int{}
		since := map[string]time.Time{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "seconds")) * time.Second)
			key := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key")
			switch rapid.IntRange(0, 5).Draw(t, "operation") {
			case 0:
				cache.Forget(key)
				delete(last, key)
				delete(since, key)
				continue
			case 1:
				reads++
				cache.Set(key, reads)
				last[key], since[key] = reads, now
				continue
			}
			fail := rapid.Bool().Draw(t, "fail")
			called := false
			got, err := cache.Get(t.Context(), key, func(context.Context) (int, error) {
				called = true
				if fail {
					return -1, errRead
				}
				reads++
				return reads, nil
			})
			began, known := since[key]
			expired := ttl > 0 && now.Sub(began) >= ttl
			switch {
			case !called && (!known || expired):
				t.Fatalf("%q was not read, although unknown or expired", key)
			case called && maxValues == 0 && known && !expired:
				t.Fatalf("%q was read again after %s", key, now.Sub(began))
			case !called && (err != nil || got != last[key]):
				t.Fatalf("got %d, %v, want the remembered %d", got, err, last[key])
			case called && fail && (!errors.Is(err, errRead) || got != 0 && got != last[key]):
				t.Fatalf("got %d, %v of a failed read, want %d or nothing", got, err, last[key])
			case called && !fail && (err != nil || got != reads):
				t.Fatalf("got %d, %v, want %d", got, err, reads)
			case called && !fail:
				last[key], since[key] = reads, now
			}
		}
	})
}

func TestOldestValueMakesRoom(t *testing.T) {
	now := time.Unix(1000, 0)
	cache := readcache.Cache[string, int]{Max: 2, Now: func() time.Time { return now }}
	reads := map[string]int{}
	for _, key := range []string{"a", "b", "a", "c", "b", "c", "a"} {
		now = now.Add(time.Second)
		if _, err := cache.Get(t.Context(), key, func(context.Context) (int, error) {
			reads[key]++
			return 0, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if reads["a"] != 2 || reads["b"] != 1 || reads["c"] != 1 {
		t.Errorf("reads of each key: %v, want a twice, b and c once", reads)
	}
}

func TestFailedReadReturnsLastValue(t *testing.T) {
	now := time.Unix(1000, 0)
	cache := readcache.Cache[string, int]{TTL: time.Second, Now: func() time.Time { return now }}
	if _, err := cache.Get(t.Context(), "a", func(context.Context) (int, error) { return 7, nil }); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	for range 2 {
		got, err := cache.Get(t.Context(), "a", func(context.Context) (int, error) { return 0, errRead })
		if got != 7 || !errors.Is(err, errRead) {
			t.Errorf("got %d, %v, want 7 and the error of the read", got, err)
		}
	}
}

// blocked is a cache with a read that waits until the test closes release.
type blocked struct {
	cache   readcache.Cache[string, int]
	reads   int
	release chan struct{}
}

func (b *blocked) read(ctx context.Context) (int, error) {
	b.reads++
	select {
	case <-b.release:
		return b.reads, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func TestWaitersShareOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blocked{release: make(chan struct{})}
		b.cache.Now = time.Now
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if got, err := b.cache.Get(t.Context(), "a", b.read); got != 1 || err != nil {
					t.Errorf("got %d, %v, want 1", got, err)
				}
			})
		}
		synctest.Wait()
		close(b.release)
		wg.Wait()
		if b.reads != 1 {
			t.Errorf("%d reads, want 1", b.reads)
		}
	})
}

func TestWaiterLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blocked{release: make(chan struct{})}
		b.cache.Now = time.Now
		var wg sync.WaitGroup
		wg.Go(func() {
			if got, err := b.cache.Get(t.Context(), "a", b.read); got != 1 || err != nil {
				t.Errorf("first caller got %d, %v, want 1", got, err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errRead)
		if _, err := b.cache.Get(ctx, "a", b.read); !errors.Is(err, errRead) {
			t.Errorf("waiter got %v, want the cause of its context", err)
		}
		close(b.release)
		wg.Wait()
	})
}

func TestWaitersOutliveFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blocked{release: make(chan struct{})}
		b.cache.Now = time.Now
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := b.cache.Get(first, "a", b.read); !errors.Is(err, context.Canceled) {
				t.Errorf("first caller got %v", err)
			}
		})
		synctest.Wait()
		for range 3 {
			wg.Go(func() {
				if got, err := b.cache.Get(t.Context(), "a", b.read); got != 2 || err != nil {
					t.Errorf("waiter got %d, %v, want the second read", got, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(b.release)
		wg.Wait()
		if b.reads != 2 {
			t.Errorf("%d reads, want 2", b.reads)
		}
	})
}
