package alloc_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// The runtime may repeat a DEL before the first has come to its end.
func TestTwoReleasesInOneBatch(t *testing.T) {
	at := lease.Attachment{ContainerID: "c", Interface: "eth0"}
	for name, tc := range map[string]struct {
		fault error // of the batch's write
		ok    bool
	}{
		"both succeed": {nil, true},
		"both fail":    {errors.New("connection refused"), false},
		"both go on":   {alloc.ErrConflict, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			observed := &conflicts{}
			a := newAllocatorWith(t, alloc.Config{Node: "a", Observer: observed, SearchEvery: -1}, store, rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31"))
			t.Cleanup(a.Close)
			for _, container := range []string{"c", "other"} {
				if _, err := allocate(t.Context(), a, request("a", container, want("eth0", 4, "p"))); err != nil {
					t.Fatal(err)
				}
			}
			entered, leave := make(chan struct{}), make(chan struct{})
			puts := 0 // one block, so one at a time
			store.Before = func(operation string, _ netip.Addr) error {
				if operation != "put" {
					return nil
				}
				switch puts++; puts {
				case 1:
					close(entered)
					<-leave
				case 2:
					return tc.fault
				}
				return nil
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := a.Release(t.Context(), lease.Attachment{ContainerID: "other", Interface: "eth0"}); err != nil {
					t.Error(err)
				}
			})
			<-entered
			for range 2 {
				wg.Go(func() {
					if err := a.Release(t.Context(), at); (err == nil) != tc.ok {
						t.Errorf("error %v, want success: %t", err, tc.ok)
					}
				})
			}
			awaitQueued(a, 2)
			close(leave)
			wg.Wait()
			if _, held := held(t, store)[netip.MustParseAddr("10.0.0.16")]; held == tc.ok {
				t.Errorf("the address is held: %t", held)
			}
			lost := errors.Is(tc.fault, alloc.ErrConflict)
			if writes := puts - 1; lost && writes != 2 || !lost && writes != 1 {
				t.Errorf("%d writes", writes)
			}
			if allocations, releases := observed.allocations.Load(), observed.releases.Load(); allocations != 0 || (releases == 1) != lost {
				t.Errorf("counted conflicts of %d allocations and %d releases", allocations, releases)
			}
		})
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

// hangingStore answers no write.
type hangingStore struct{ *ipamtest.Store }

func (hangingStore) Put(ctx context.Context, _ lease.Block) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

func TestHangingWriteFailsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &ipamtest.Store{}
		a := alloc.New(alloc.Config{Node: "a", Blocks: hangingStore{store}, Older: store.Older, Now: time.Now,
			Log: slog.New(slog.DiscardHandler), Observer: &conflicts{}, SearchEvery: -1})
		defer a.Close()
		a.SetUsable("p", inet.OfAddrs(netip.MustParseAddr("10.0.0.16")))
		if err := a.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := allocate(t.Context(), a, request("a", "c", want("eth0", 4, "p")))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took < time.Second || took > time.Minute {
			t.Errorf("got %v after %s, want the end of the time after seconds", err, took)
		}
	})
}

// A node that creates a block that exists does not know its neighbours either. After a
// lost update, it reads one block.
func TestOnlyFailedCreateReadsRegion(t *testing.T) {
	for name, known := range map[string]bool{"create": false, "update": true} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			p := rangePool(t, "p", "10.0.0.0/24", "10.0.0.16-10.0.0.31")
			a := newAllocator(t, "a", store, p)
			t.Cleanup(a.Close)
			if known {
				if _, err := allocate(t.Context(), a, request("a", "first", want("eth0", 4, "p"))); err != nil {
					t.Fatal(err)
				}
			}
			b := newAllocator(t, "b", store, p)
			t.Cleanup(b.Close)
			if err := b.Read(t.Context(), netip.MustParseAddr("10.0.0.16")); err != nil {
				t.Fatal(err)
			}
			if _, err := allocate(t.Context(), b, request("b", "other", want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
			lists := store.Count("list")
			if _, err := allocate(t.Context(), a, request("a", "second", want("eth0", 4, "p"))); err != nil {
				t.Fatal(err)
			}
			if read := store.Count("list") > lists; read == known {
				t.Errorf("the region was read: %t", read)
			}
		})
	}
}
