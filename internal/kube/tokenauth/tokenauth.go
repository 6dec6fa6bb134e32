// Package tokenauth serves a path only to clients with a bearer token that the API
// server accepts (TokenReview) and whose user may get the path (SubjectAccessReview).
//
// A permission is used for a minute, and for ten minutes while the API server does not
// answer, so that metrics stay available when they are needed most. Refusals are not
// kept. All clients without a permission together cost the API server one review per
// second. Clients with a permission do not share this limit, so a stranger cannot lock
// Prometheus out.
//
// It does not use k8s.io/apiserver or controller-runtime, which would double the agent:
// docs/adr/0026-metrics-for-permitted-clients.md.
package tokenauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/rest"
)

const (
	// fresh is how long a permission is used without another review.
	fresh = time.Minute
	// stale is how long it is used while the API server does not answer.
	stale = 10 * time.Minute
	// maxPermissions limits the permissions in memory. Each belongs to a token of a
	// permitted client, e.g. one Prometheus server has one at a time.
	maxPermissions = 64
	// reviewsPerSecond and reviewBurst limit the reviews for clients without a permission.
	reviewsPerSecond = 1
	reviewBurst      = 10
	// reviewTimeout limits one review. Prometheus waits 10 s for a scrape.
	reviewTimeout = 4 * time.Second
)

// refusal is the answer to a client without a permission.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

// Guard is an http.Handler that calls another one for permitted requests.
type Guard struct {
	next http.Handler
	// review returns nil if the token permits the request, a *refusal if it does not, or
	// another error if the API server gave no answer.
	review    func(ctx context.Context, token string) error
	now       func() time.Time
	log       *slog.Logger
	strangers *rate.Limiter
	mu        struct {
		sync.Mutex
		// permitted has the time of the last permission by the SHA-256 of the token.
		permitted map[[sha256.Size]byte]time.Time
	}
}

// New returns a guard of next, for GET requests of path, e.g. "/metrics". It sends its
// reviews to the API server in config.
func New(config *rest.Config, path string, next http.Handler, log *slog.Logger) (*Guard, error) {
	reviewer, err := newReviewer(config, path)
	if err != nil {
		return nil, err
	}
	return newGuard(reviewer.review, next, log, time.Now), nil
}

func newGuard(review func(context.Context, string) error, next http.Handler, log *slog.Logger, now func() time.Time) *Guard {
	g := &Guard{next: next, review: review, now: now, log: log, strangers: rate.NewLimiter(reviewsPerSecond, reviewBurst)}
	g.mu.permitted = map[[sha256.Size]byte]time.Time{}
	return g
}

// ServeHTTP implements http.Handler.
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := g.check(r)
	if err == nil {
		g.next.ServeHTTP(w, r)
		return
	}
	answer := &refusal{http.StatusServiceUnavailable, "the API server does not answer whether the token is valid; try again"}
	if !errors.As(err, &answer) {
		g.log.Warn("cannot review the token of a client", "path", r.URL.Path, "client", r.RemoteAddr, "err", err)
	}
	if answer.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, answer.message, answer.status)
}

func (g *Guard) check(r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return &refusal{http.StatusUnauthorized, "send the token of a service account in the header Authorization, as Bearer <token>"}
	}
	key := sha256.Sum256([]byte(token))
	at, known := g.permission(key)
	if known && g.now().Sub(at) < fresh {
		return nil
	}
	if !known && !g.strangers.AllowN(g.now(), 1) {
		return &refusal{http.StatusTooManyRequests, "too many requests with unknown tokens; try again in a few seconds"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	err := g.review(ctx, token)
	switch {
	case err == nil:
		g.permit(key)
	case errors.As(err, new(*refusal)):
		g.forget(key)
	case known:
		return nil
	}
	return err
}

// permission returns the time of the last permission, unless it is stale.
func (g *Guard) permission(key [sha256.Size]byte) (at time.Time, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, known = g.mu.permitted[key]
	return at, known && g.now().Sub(at) < stale
}

// permit records a permission. If there are too many, it drops the oldest one.
func (g *Guard) permit(key [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.permitted[key] = g.now()
	if len(g.mu.permitted) <= maxPermissions {
		return
	}
	oldest := key
	for k, at := range g.mu.permitted {
		if at.Before(g.mu.permitted[oldest]) {
			oldest = k
		}
	}
	delete(g.mu.permitted, oldest)
}

func (g *Guard) forget(key [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.mu.permitted, key)
}
