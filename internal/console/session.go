package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
)

const (
	// sessionAge is the longest life of a session, and sessionIdle that without a request of the user.
	sessionAge, sessionIdle = 12 * time.Hour, 2 * time.Hour
	// reviewEvery is the time after which the API server judges the token again: it may have been revoked.
	reviewEvery = 5 * time.Minute
	// reviewPatience is how long a session outlives the silence of the API server. It counts when a review fails: an idle session
	// has no reviews.
	reviewPatience = 15 * time.Minute
	// maxSessions limits all sessions, and maxOwnSessions those of one user. Past the first, the user with the most loses one, past
	// the second the user itself: the one that was used longest ago.
	maxSessions, maxOwnSessions = 4096, 32
)

// access tells users and rights. tokenauth.Access implements it.
type access interface {
	Identify(ctx context.Context, token string) (user tokenauth.User, known bool, err error)
	MayList(ctx context.Context, user tokenauth.User, right tokenauth.Right) (bool, error)
}

// session is a signed-in user. Its token stays in the memory of this process.
type session struct {
	user  tokenauth.User
	token string
	key   [sha256.Size]byte // of the cookie
	// sessions guards the fields below.
	began, used time.Time
	reviewed    time.Time // when the API server accepted the token last
	// reviewing is closed at the end of the running review, and nil without one.
	reviewing chan struct{}
}

// sessions are the signed-in users.
type sessions struct {
	access access
	now    func() time.Time
	mu     struct {
		sync.Mutex
		all map[[sha256.Size]byte]*session
	}
}

// The errors of signIn.
var (
	errUnknownToken = errors.New("the API server does not accept this token; it may have expired, so create a new one")
	errNoAnswer     = errors.New("the API server does not answer whether the token is valid; try again")
)

func newSessions(access access, now func() time.Time) *sessions {
	s := &sessions{access: access, now: now}
	s.mu.all = map[[sha256.Size]byte]*session{}
	return s
}

// signIn starts a session and returns the value of its cookie.
func (s *sessions) signIn(ctx context.Context, token string) (cookie string, user tokenauth.User, err error) {
	user, known, err := s.access.Identify(ctx, token)
	switch {
	case err != nil:
		return "", user, errors.Join(errNoAnswer, err)
	case !known:
		return "", user, errUnknownToken
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", user, err
	}
	cookie = base64.RawURLEncoding.EncodeToString(random)
	now := s.now()
	next := &session{user: user, token: token, began: now, used: now, reviewed: now, key: sha256.Sum256([]byte(cookie))}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRoom(user)
	s.mu.all[next.key] = next
	return cookie, user, nil
}

// makeRoom removes the sessions that ended and, if there are too many, another one. The caller holds mu.
func (s *sessions) makeRoom(user tokenauth.User) {
	now := s.now()
	maps.DeleteFunc(s.mu.all, func(_ [sha256.Size]byte, x *session) bool { return x.ended(now) })
	own, most, of := map[[sha256.Size]byte]int{}, 0, [sha256.Size]byte{} // by tokenauth.User.ID
	for _, x := range s.mu.all {
		id := x.user.ID()
		if own[id]++; own[id] > most {
			most, of = own[id], id
		}
	}
	switch {
	case own[user.ID()] >= maxOwnSessions:
		s.removeOldest(user.ID())
	case len(s.mu.all) >= maxSessions:
		s.removeOldest(of)
	}
}

// removeOldest removes the session of a user that was used longest ago.
func (s *sessions) removeOldest(user [sha256.Size]byte) {
	var oldest *session
	for _, x := range s.mu.all {
		if x.user.ID() == user && (oldest == nil || x.used.Before(oldest.used)) {
			oldest = x
		}
	}
	delete(s.mu.all, oldest.key)
}

func (x *session) ended(now time.Time) bool {
	return now.Sub(x.began) > sessionAge || now.Sub(x.used) > sessionIdle
}

// of returns the session of a cookie, nil if there is none any more. From time to time it reviews the token again. acts is
// whether the user made the request: an open page prolongs no session.
func (s *sessions) of(ctx context.Context, cookie string, acts bool) *session {
	key := sha256.Sum256([]byte(cookie))
	x, reviewing, review := s.use(key, acts)
	switch {
	case review:
		s.review(ctx, x)
	case reviewing != nil:
		select {
		case <-reviewing:
		case <-ctx.Done():
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.all[key]
}

// use counts a request of the user. It returns the review that the request must wait for, or true if the request must review the token itself.
func (s *sessions) use(key [sha256.Size]byte, acts bool) (x *session, reviewing <-chan struct{}, review bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	x = s.mu.all[key]
	if x == nil {
		return nil, nil, false
	}
	if x.ended(now) {
		delete(s.mu.all, key)
		return nil, nil, false
	}
	if acts {
		x.used = now
	}
	switch silent := now.Sub(x.reviewed); {
	case silent > reviewEvery && x.reviewing == nil:
		x.reviewing = make(chan struct{})
		return x, nil, true
	case silent > reviewPatience:
		return x, x.reviewing, false
	default:
		return x, nil, false
	}
}

// review ends the session if the API server does not accept its token any more, or is silent for too long.
func (s *sessions) review(ctx context.Context, x *session) {
	user, known, err := s.access.Identify(context.WithoutCancel(ctx), x.token)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(x.reviewing)
	x.reviewing = nil
	switch {
	case err != nil && s.now().Sub(x.reviewed) <= reviewPatience:
	case err == nil && known && user.ID() == x.user.ID():
		x.reviewed = s.now()
	default:
		delete(s.mu.all, x.key)
	}
}

// signOut ends the session of a cookie.
func (s *sessions) signOut(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.all, sha256.Sum256([]byte(cookie)))
}

// cookieName is the name of the cookie. Browsers accept the prefix only with Secure and the path "/", and no other host of the domain can set it.
func cookieName(secure bool) string {
	if secure {
		return "__Host-spiderpool-console"
	}
	return "spiderpool-console"
}

func sessionCookie(value string, secure bool) *http.Cookie {
	return &http.Cookie{Name: cookieName(secure), Value: value, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
}

const (
	// signInsEvery and signInBurst limit the attempts of one client, allSignIns and allSignInBurst those of all.
	signInsEvery, signInBurst  = 2 * time.Second, 5
	allSignIns, allSignInBurst = 10, 50
	// siteClients is the number of IPv6 clients whose limits a site has: one can have 65,536 of them.
	siteClients = 4
	// maxClients limits the clients and sites in memory. All further ones share half of the attempts of all.
	maxClients = 4096
)

// signInLimit limits attempts to sign in: each costs the API server a review.
type signInLimit struct {
	all, further *rate.Limiter
	mu           struct {
		sync.Mutex
		clients map[netip.Prefix]*rate.Limiter
	}
}

func newSignInLimit() *signInLimit {
	l := &signInLimit{all: rate.NewLimiter(allSignIns, allSignInBurst), further: rate.NewLimiter(allSignIns/2, allSignInBurst/2)}
	l.mu.clients = map[netip.Prefix]*rate.Limiter{}
	return l
}

// allow reports whether a client, as in Request.RemoteAddr, may try now. A /64 of IPv6 is one client: a host there has any
// number of addresses. A /48 is a site with many of those.
func (l *signInLimit) allow(remote string, now time.Time) bool {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return l.all.AllowN(now, 1)
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return l.of(addr, 32, 1, now).AllowN(now, 1) && l.all.AllowN(now, 1)
	}
	return l.of(addr, 64, 1, now).AllowN(now, 1) && l.of(addr, 48, siteClients, now).AllowN(now, 1) && l.all.AllowN(now, 1)
}

// of returns the limiter of an address with the leading bits of addr: that of a number of clients.
func (l *signInLimit) of(addr netip.Addr, bits, clients int, now time.Time) *rate.Limiter {
	client := netip.PrefixFrom(addr, bits).Masked()
	l.mu.Lock()
	defer l.mu.Unlock()
	if limiter := l.mu.clients[client]; limiter != nil {
		return limiter
	}
	if len(l.mu.clients) >= maxClients {
		maps.DeleteFunc(l.mu.clients, func(_ netip.Prefix, limiter *rate.Limiter) bool {
			return limiter.TokensAt(now) >= float64(limiter.Burst()) // as good as new
		})
	}
	if len(l.mu.clients) >= maxClients {
		return l.further
	}
	limiter := rate.NewLimiter(rate.Every(signInsEvery/time.Duration(clients)), signInBurst*clients)
	l.mu.clients[client] = limiter
	return limiter
}
