package console

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// stream is an open page.
type stream struct{ lines *bufio.Scanner }

// next returns the data of the next event, "" at the end.
func (s stream) next() string {
	for s.lines.Scan() {
		if data, ok := strings.CutPrefix(s.lines.Text(), "data: "); ok {
			return data
		}
	}
	return ""
}

// open opens a page until ctx ends, and returns it after its first event.
func (b browser) open(ctx context.Context) (stream, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+"/live", nil)
	if err != nil {
		return stream{}, err
	}
	answer, err := b.Do(request)
	if err != nil {
		return stream{}, err
	}
	context.AfterFunc(ctx, func() { _ = answer.Body.Close() })
	s := stream{bufio.NewScanner(answer.Body)}
	s.next()
	return s, nil
}

// TestOpenPagesCostNoReviews opens 1,000 pages of twenty users, changes the cluster, and counts the questions to the API server.
func TestOpenPagesCostNoReviews(t *testing.T) {
	const open, users = 1000, 20
	w := addressesWorld(t)
	var browsers []browser
	for i := range users {
		name := fmt.Sprint("user", i)
		w.user(name, "*")
		b := w.as(t, name)
		b.get("/")
		browsers = append(browsers, b)
	}
	before := w.authority.count()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := make([]stream, open)
	var work sync.WaitGroup
	for i := range all {
		work.Go(func() {
			var err error
			if all[i], err = browsers[i%users].open(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	w.change(t)
	for i := range all {
		work.Go(func() {
			if all[i].next() == "" {
				t.Error("a page hears nothing")
			}
			if i%10 == 0 { // a page that reads itself again
				if _, body := browsers[i%users].get("/"); !strings.Contains(body, "Pools") {
					t.Error("no page")
				}
			}
		})
	}
	work.Wait()
	if after := w.authority.count(); after != before {
		t.Errorf("%d open pages cost %d reviews", open, after-before)
	}
	cancel()
	w.server.CloseClientConnections()
	w.server.Close() // waits for the requests
	w.streams.mu.Lock()
	defer w.streams.mu.Unlock()
	if w.streams.mu.open != 0 || len(w.streams.mu.own) != 0 {
		t.Errorf("%d streams of %d users after the end of all pages", w.streams.mu.open, len(w.streams.mu.own))
	}
}

// change adds a pool, and lets the board see it.
func (w *world) change(t *testing.T) {
	t.Helper()
	pool := &v2beta1.SpiderIPPool{}
	pool.Name, pool.Spec.Subnet, pool.Spec.IPs = "red", "10.8.0.0/24", []string{"10.8.0.1-10.8.0.9"}
	if err := w.objects.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	w.Board.outdate(t.Context())
}

func TestBoardBuildsForReadersOnly(t *testing.T) {
	w := addressesWorld(t)
	if _, err := w.Board.current(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, _ := w.Board.follow()
	w.wait(idleAfter + time.Second)
	w.change(t)
	w.Board.mu.Lock()
	idle := w.Board.mu.snapshot.generation
	w.Board.mu.Unlock()
	if idle != first {
		t.Errorf("a board without readers built snapshot %d", idle)
	}
	if s, err := w.Board.current(t.Context()); err != nil || s.generation != first+1 {
		t.Errorf("the next reader got an outdated snapshot: %v", err)
	}
}

// TestFollowerGetsNoOldSnapshot returns to a page: its stream comes first, then its request.
func TestFollowerGetsNoOldSnapshot(t *testing.T) {
	w := addressesWorld(t)
	first, err := w.Board.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.wait(idleAfter + time.Second)
	w.change(t)
	w.Board.follow()
	if s, err := w.Board.current(t.Context()); err != nil || s.generation != first.generation+1 {
		t.Errorf("the page is of an outdated snapshot: %v", err)
	}
}

func TestStreamsNeedSession(t *testing.T) {
	w := addressesWorld(t)
	if status, _ := w.browser(t).get("/live"); status != http.StatusNoContent {
		t.Errorf("without a session: status %d", status)
	}
	w.streams.mu.open = maxStreams
	if status, _ := w.as(t, "admin").get("/live"); status != http.StatusNoContent {
		t.Errorf("too many open pages: status %d", status)
	}
}

// TestUserHasPartOfStreams takes all places of a user.
func TestUserHasPartOfStreams(t *testing.T) {
	w := addressesWorld(t)
	w.user("other", "*")
	other := w.as(t, "other")
	other.get("/")
	user, _, err := w.Access.Identify(t.Context(), "token-admin")
	if err != nil {
		t.Fatal(err)
	}
	for range maxOwnStreams {
		if !w.streams.take(user.ID()) {
			t.Fatal("no place")
		}
	}
	if status, _ := w.as(t, "admin").get("/live"); status != http.StatusNoContent {
		t.Errorf("another session of the user: status %d", status)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := other.open(ctx); err != nil {
		t.Error(err)
	}
}

func TestHistoryForecastsFullPool(t *testing.T) {
	w := newWorld(t, largeCluster(112)...)
	b := w.as(t, "admin")
	for i := range 6 {
		if _, body := b.get("/pools/large"); i < 3 && !strings.Contains(body, "not known yet") {
			t.Errorf("a forecast after %d samples", i)
		}
		w.Board.sample(t.Context())
		w.wait(sampleEvery)
		block := largeCluster(112 + 16*(i+1))[8+i]
		if err := w.objects.Create(t.Context(), block); err != nil {
			t.Fatal(err)
		}
		w.Board.outdate(t.Context())
	}
	if _, body := b.get("/pools/large"); !strings.Contains(body, "full in about 14d") {
		t.Errorf("no forecast in\n%s", body)
	}
}
