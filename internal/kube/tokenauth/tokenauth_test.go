package tokenauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// world is a guard with a clock and with an API server that knows one token.
type world struct {
	*Guard
	at      time.Time
	valid   map[string]bool
	away    bool
	reviews int
}

func newWorld() *world {
	w := &world{at: time.Unix(1_000_000, 0), valid: map[string]bool{"good": true}}
	review := func(_ context.Context, token string) error {
		w.reviews++
		switch {
		case w.away:
			return errors.New("connection refused")
		case !w.valid[token]:
			return &refusal{http.StatusForbidden, "no"}
		}
		return nil
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) })
	w.Guard = newGuard(review, ok, slog.New(slog.DiscardHandler), func() time.Time { return w.at })
	return w
}

// get returns the status of the answer to a request with the header Authorization.
func (w *world) get(authorization string) int {
	request, answer := httptest.NewRequest(http.MethodGet, "/metrics", nil), httptest.NewRecorder()
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	w.ServeHTTP(answer, request)
	return answer.Code
}

func (w *world) want(t *testing.T, when, authorization string, status, reviews int) {
	t.Helper()
	if got := w.get(authorization); got != status || w.reviews != reviews {
		t.Errorf("%s: status %d after %d reviews, want %d after %d", when, got, w.reviews, status, reviews)
	}
}

func TestRequestsWithoutTokenAreRefused(t *testing.T) {
	w := newWorld()
	for _, header := range []string{"", "good", "Basic good", "Bearer", "Bearer "} {
		w.want(t, fmt.Sprintf("header %q", header), header, http.StatusUnauthorized, 0)
	}
	w.want(t, "permitted token", "bearer good", http.StatusOK, 1)
}

func TestPermissionLastsOneMinute(t *testing.T) {
	w := newWorld()
	w.want(t, "first", "Bearer good", http.StatusOK, 1)
	w.at = w.at.Add(fresh - time.Second)
	w.want(t, "still fresh", "Bearer good", http.StatusOK, 1)
	w.at = w.at.Add(time.Second)
	w.want(t, "asked again", "Bearer good", http.StatusOK, 2)
	delete(w.valid, "good")
	w.at = w.at.Add(fresh)
	w.want(t, "withdrawn", "Bearer good", http.StatusForbidden, 3)
	w.away = true
	w.want(t, "no way back without the API server", "Bearer good", http.StatusServiceUnavailable, 4)
}

func TestPermissionOutlivesShortOutage(t *testing.T) {
	w := newWorld()
	w.want(t, "before", "Bearer good", http.StatusOK, 1)
	w.away = true
	w.at = w.at.Add(stale - time.Second)
	w.want(t, "known token", "Bearer good", http.StatusOK, 2)
	w.want(t, "unknown token", "Bearer other", http.StatusServiceUnavailable, 3)
	w.at = w.at.Add(time.Second)
	w.want(t, "outage too long", "Bearer good", http.StatusServiceUnavailable, 4)
}

func TestStrangersDoNotLockOutPermitted(t *testing.T) {
	w := newWorld()
	w.want(t, "permitted", "Bearer good", http.StatusOK, 1)
	w.at = w.at.Add(fresh)
	for i := range 1000 {
		w.get(fmt.Sprint("Bearer stranger-", i))
	}
	// The burst is full again after a minute.
	if w.reviews != 1+reviewBurst {
		t.Errorf("%d reviews for 1000 unknown tokens, want %d", w.reviews-1, reviewBurst)
	}
	w.want(t, "a further stranger", "Bearer stranger", http.StatusTooManyRequests, 1+reviewBurst)
	w.want(t, "permitted, with a new review", "Bearer good", http.StatusOK, 2+reviewBurst)
}

func TestPermissionsAreBounded(t *testing.T) {
	w := newWorld()
	for i := range 2 * maxPermissions {
		token := fmt.Sprint("good-", i)
		w.valid[token] = true
		w.at = w.at.Add(time.Second)
		w.want(t, token, "Bearer "+token, http.StatusOK, i+1)
	}
	if n := len(w.mu.permitted); n != maxPermissions {
		t.Errorf("%d permissions, want %d", n, maxPermissions)
	}
	last := fmt.Sprint("Bearer good-", 2*maxPermissions-1)
	w.want(t, "the newest stays", last, http.StatusOK, 2*maxPermissions)
}
