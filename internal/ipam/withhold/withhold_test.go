package withhold_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/lease"
)

var start = time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)

func set(t testing.TB, ranges ...string) inet.Set {
	t.Helper()
	s, err := inet.Parse(ranges, inet.Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var discard = slog.New(slog.DiscardHandler)

func newWithholder(blocks withhold.Blocks) *withhold.Withholder {
	return withhold.New(blocks, func() time.Time { return start }, discard)
}

// observer ignores what an allocator reports.
type observer struct{}

func (observer) AllocationConflict()          {}
func (observer) ReleaseConflict()             {}
func (observer) Damaged()                     {}
func (observer) Committed(int, time.Duration) {}

func newAgent(t interface{ Helper() }, node string, blocks alloc.Blocks, usable inet.Set) *alloc.Allocator {
	t.Helper()
	a := alloc.New(alloc.Config{
		Node: node, Blocks: blocks, Older: (&ipamtest.Store{}).Older, Now: func() time.Time { return start }, Log: discard,
		Observer: observer{}, SearchEvery: -1, ReuseAfter: -1,
	})
	a.SetUsable("p", usable)
	for a.Load(context.Background()) != nil {
	}
	return a
}

// grant asks for an address for a new container.
func grant(a *alloc.Allocator, node, container string) (netip.Addr, error) {
	grants, _, err := a.Allocate(context.Background(), lease.Request{
		Pod: lease.PodKey{Namespace: "default", Name: container}, PodUID: container, ContainerID: container, Node: node,
		Wants: []lease.Want{{Interface: "eth0", Family: inet.IPv4, Pools: []string{"p"}}},
	}, a.Arrive())
	if err != nil {
		return netip.Addr{}, err
	}
	return grants[0].Addr, nil
}

func release(a *alloc.Allocator, container string) error {
	return a.Release(context.Background(), lease.Attachment{ContainerID: container, Interface: "eth0"})
}

func states(store *ipamtest.Store) (all []string) {
	for _, b := range store.All() {
		for _, l := range b.Leases {
			all = append(all, fmt.Sprintf("%s %s", l.Addr, l.State))
		}
	}
	return all
}

func TestStaleAgentGetsNoWithheldAddress(t *testing.T) {
	for name, knows := range map[string]bool{"unknown block": false, "known block": true} {
		t.Run(name, func(t *testing.T) {
			store := &ipamtest.Store{}
			piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.0-10.0.0.15")}
			agent := newAgent(t, "n", store, piece.Addrs)
			defer agent.Close()
			if knows {
				if _, err := grant(agent, "n", "c0"); err != nil {
					t.Fatal(err)
				}
				if err := release(agent, "c0"); err != nil {
					t.Fatal(err)
				}
			}
			ipamtest.MustWithhold(t, newWithholder(store), piece)
			addr, err := grant(agent, "n", "c1")
			if exhausted := new(lease.ExhaustedError); !errors.As(err, &exhausted) || !strings.Contains(err.Error(), "16 withheld") {
				t.Errorf("got %s, %v", addr, err)
			}
			if got := store.All()[0]; len(got.Withheld()) != 16 {
				t.Errorf("the agent changed the block: %+v", got)
			}
		})
	}
}

func TestPieceIsWithheldAsWhole(t *testing.T) {
	store := &ipamtest.Store{}
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.14-10.0.0.17")}
	agent := newAgent(t, "n", store, set(t, "10.0.0.17", "10.0.0.18"))
	defer agent.Close()
	for _, container := range []string{"c1", "c2"} {
		if _, err := grant(agent, "n", container); err != nil {
			t.Fatal(err)
		}
	}
	w := newWithholder(store)
	holders, err := w.Withhold(t.Context(), piece)
	if err != nil || len(holders) != 1 || holders[0].Addr.String() != "10.0.0.17" {
		t.Fatalf("got %v, %v", holders, err)
	}
	if got, want := states(store), []string{"10.0.0.17 InUse", "10.0.0.18 InUse"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := release(agent, "c1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ipamtest.MustWithhold(t, w, piece)
		want := []string{"10.0.0.14 Withheld", "10.0.0.15 Withheld", "10.0.0.16 Withheld", "10.0.0.17 Withheld", "10.0.0.18 InUse"}
		if got := states(store); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	all, err := w.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Network != "aws" || all[0].Pool != "p" || !all[0].Addrs.Equal(piece.Addrs) {
		t.Fatalf("got %+v, %v", all, err)
	}
	for range 2 {
		if all, err = w.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Restore(t.Context(), all[0], set(t, "10.0.0.15-10.0.0.16")); err != nil {
			t.Fatal(err)
		}
		want := []string{"10.0.0.14 Withheld", "10.0.0.15 Released", "10.0.0.16 Released", "10.0.0.17 Withheld", "10.0.0.18 InUse"}
		if got := states(store); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// The second block gets its holder between the reads and the writes.
func TestHolderMeanwhileUndoesWrites(t *testing.T) {
	store := &ipamtest.Store{}
	agent := newAgent(t, "n", store, set(t, "10.0.0.16"))
	defer agent.Close()
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.14-10.0.0.17")}
	once := sync.OnceFunc(func() {
		if _, err := grant(agent, "n", "c"); err != nil {
			t.Error(err)
		}
	})
	w := newWithholder(hooked{store, once})
	holders, err := w.Withhold(t.Context(), piece)
	if err != nil || len(holders) != 1 {
		t.Fatalf("got %v, %v", holders, err)
	}
	if got, want := states(store), []string{"10.0.0.14 Released", "10.0.0.15 Released", "10.0.0.16 InUse"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// hooked calls a function before each write.
type hooked struct {
	*ipamtest.Store
	before func()
}

func (h hooked) Put(ctx context.Context, b lease.Block) (string, error) {
	h.before()
	return h.Store.Put(ctx, b)
}

// A write that ends the state, and whose answer is lost, may arrive after the next withholding.
func TestLateEndIsRefused(t *testing.T) {
	store := &ipamtest.Store{}
	w := newWithholder(store)
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.0-10.0.0.15")}
	withheld := func() withhold.Withheld {
		t.Helper()
		ipamtest.MustWithhold(t, w, piece)
		all, err := w.List(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return all[0]
	}
	first := withheld()
	late := &lateStore{Store: store}
	if err := newWithholder(late).Restore(t.Context(), first, first.Addrs); !errors.Is(err, ipamtest.ErrAway) {
		t.Fatal(err)
	}
	withheld()
	if _, err := store.Put(t.Context(), late.pending); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("the late write: got %v, want a conflict", err)
	}
	// A former leader that was paused after its look comes too late as well.
	if err := w.Restore(t.Context(), first, first.Addrs); !errors.Is(err, alloc.ErrConflict) {
		t.Errorf("the former leader: got %v, want a conflict", err)
	}
	if got := store.All()[0]; len(got.Withheld()) != 16 {
		t.Errorf("got %+v, want all withheld", got)
	}
}

// lateStore keeps the last write back.
type lateStore struct {
	*ipamtest.Store
	pending lease.Block
}

func (s *lateStore) Put(_ context.Context, b lease.Block) (string, error) {
	s.pending = b
	return "", ipamtest.ErrAway
}

func TestUnusablePieceIsRefused(t *testing.T) {
	store := &ipamtest.Store{}
	for name, test := range map[string]struct {
		piece withhold.Piece
		want  string
	}{
		"no network": {withhold.Piece{Pool: "p", Addrs: set(t, "10.0.0.1")}, "both need a name"},
		"no address": {withhold.Piece{Network: "aws", Pool: "p"}, "got 0"},
		"too large":  {withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "fd00::-fd00::ffff:ffff:ffff")}, "a larger piece stays assigned"},
	} {
		if _, err := newWithholder(store).Withhold(t.Context(), test.piece); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	damaged := damagedStore{store}
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.1")}
	if _, err := newWithholder(damaged).Withhold(t.Context(), piece); err == nil || !strings.Contains(err.Error(), "10.0.0.0/28 is corrupt") {
		t.Errorf("damaged: got %v", err)
	}
	if store.Count("put") > 0 {
		t.Error("something was written")
	}
}

type damagedStore struct{ *ipamtest.Store }

func (damagedStore) Get(_ context.Context, base netip.Addr) (lease.Block, error) {
	return lease.Block{Base: base, Version: "1", Damaged: "no reason"}, nil
}

// Agents write the blocks of the piece all the time, for neighbors of its addresses.
func TestWithholdingEndsAmongBusyAgents(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	jitter := rand.New(rand.NewSource(seed))
	store := &ipamtest.Store{}
	neighbors := set(t, "10.0.0.0-10.0.0.7", "10.0.0.24-10.0.0.31")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, node := range []string{"a", "b", "c"} {
		agent := newAgent(t, node, store, neighbors)
		pause := time.Duration(jitter.Intn(200)) * time.Microsecond
		wg.Go(func() {
			defer agent.Close()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
				container := fmt.Sprint(node, i)
				if _, err := grant(agent, node, container); err != nil {
					t.Error(err)
					return
				}
				if err := release(agent, container); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	w := newWithholder(store)
	piece := withhold.Piece{Network: "aws", Pool: "p", Addrs: set(t, "10.0.0.8-10.0.0.23")}
	for range 50 {
		for attempt := 1; ; attempt++ {
			holders, err := w.Withhold(t.Context(), piece)
			if err == nil && len(holders) == 0 {
				break
			}
			if !errors.Is(err, alloc.ErrConflict) || attempt == 100 {
				t.Fatalf("attempt %d: %v, %v", attempt, holders, err)
			}
			time.Sleep(time.Duration(jitter.Intn(1000)) * time.Microsecond)
		}
		for attempt := 1; ; attempt++ {
			all, err := w.List(t.Context())
			if err == nil && len(all) == 0 {
				break
			}
			if err != nil || attempt == 100 {
				t.Fatalf("attempt %d: %v, %v", attempt, all, err)
			}
			if err := w.Restore(t.Context(), all[0], all[0].Addrs); err != nil {
				time.Sleep(time.Duration(jitter.Intn(1000)) * time.Microsecond)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// unanswered keeps writes instead of passing them on.
type unanswered struct {
	*ipamtest.Store
	writes *[]lease.Block
}

func (u unanswered) Put(_ context.Context, b lease.Block) (string, error) {
	*u.writes = append(*u.writes, b)
	return "", ipamtest.ErrAway
}

// The write of a release arrives after its agent has started again and read the lease. The new agent
// does not know that write. So it remembers the sandbox, but grants nothing, until it ends the sandbox.
func TestFormerSandboxOfLateReleaseEnds(t *testing.T) {
	store, piece := &ipamtest.Store{}, set(t, "10.0.0.0")
	usable := set(t, "10.0.0.0-10.0.0.1")
	first := newAgent(t, "a", store, usable)
	addr, err := grant(first, "a", "c1")
	first.Close()
	if err != nil || !piece.Contains(addr) {
		t.Fatalf("got %s, %v", addr, err)
	}
	var late []lease.Block
	before := newAgent(t, "a", unanswered{store, &late}, usable)
	_ = release(before, "c1") // no answer
	before.Close()
	after := newAgent(t, "a", store, usable)
	defer after.Close()
	if len(late) != 1 {
		t.Fatalf("%d writes, want that of the release", len(late))
	}
	if _, err := store.Put(t.Context(), late[0]); err != nil {
		t.Fatal(err)
	}
	ipamtest.MustWithhold(t, newWithholder(store), withhold.Piece{Network: "aws", Pool: "p", Addrs: piece})
	if other, err := grant(after, "a", "c2"); err != nil || other == addr {
		t.Errorf("granted %s, error %v", other, err)
	}
	if block := store.All()[0]; len(block.FormerOf(addr)) != 1 {
		t.Errorf("the agent does not remember the sandbox: %+v", block)
	}
	if err := release(after, "c1"); err != nil {
		t.Fatal(err)
	}
	if block := store.All()[0]; len(block.FormerOf(addr)) != 0 || !slices.Equal(states(store), []string{"10.0.0.0 Withheld", "10.0.0.1 InUse"}) {
		t.Errorf("in the end: %+v", block)
	}
}
