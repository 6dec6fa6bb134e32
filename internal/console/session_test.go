package console

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
)

func TestPagesNeedSession(t *testing.T) {
	w := addressesWorld(t)
	for pattern := range pages {
		path := strings.NewReplacer("{$}", "", "{name}", "blue", "{namespace}", "shop", "{address}", "10.6.0.2").Replace(pattern)
		if _, body := w.browser(t).get(path); !strings.Contains(body, "<h1>Sign in</h1>") || strings.Contains(body, "10.6.0") {
			t.Errorf("%s without a session:\n%s", path, body)
		}
	}
	if w.authority.count() != 0 {
		t.Errorf("visitors without a session caused %d reviews", w.authority.count())
	}
}

func TestSignInJudgesToken(t *testing.T) {
	w := addressesWorld(t)
	for token, want := range map[string]int{
		"token-admin": http.StatusOK, " Bearer token-admin\n": http.StatusOK, "secret-unknown": http.StatusUnauthorized, "": http.StatusBadRequest,
		"two words": http.StatusBadRequest, strings.Repeat("x", maxForm): http.StatusBadRequest,
	} {
		w.signIns = newSignInLimit()
		if status, body := w.browser(t).post("/sign-in", url.Values{"token": {token}}); status != want {
			t.Errorf("%.20q: status %d, want %d\n%s", token, status, want, body)
		}
	}
	w.authority.set(func(a *authority) { a.away = true })
	if status, body := w.browser(t).post("/sign-in", url.Values{"token": {"token-admin"}}); status != http.StatusServiceUnavailable || !strings.Contains(body, "does not answer") {
		t.Errorf("API server away: status %d\n%s", status, body)
	}
	if log := w.logged.String(); strings.Contains(log, "token-") || strings.Contains(log, "secret-unknown") || !strings.Contains(log, `"user":"admin"`) {
		t.Errorf("the log has a token, or lacks the user:\n%s", log)
	}
}

func TestCookieIsForThisSiteOnly(t *testing.T) {
	for _, secure := range []bool{false, true} {
		w := addressesWorld(t)
		w.Secure = secure
		request := httptest.NewRequest(http.MethodPost, "/sign-in", strings.NewReader("token=token-admin"))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer := httptest.NewRecorder()
		w.site.ServeHTTP(answer, request)
		cookies := answer.Result().Cookies()
		if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode || cookies[0].Secure != secure || cookies[0].Path != "/" || cookies[0].Domain != "" ||
			strings.HasPrefix(cookies[0].Name, "__Host-") != secure || strings.Contains(cookies[0].Value, "token") {
			t.Errorf("secure %v: cookies %v", secure, cookies)
		}
		if got := answer.Header().Get("Strict-Transport-Security") != ""; got != secure {
			t.Errorf("secure %v: Strict-Transport-Security %v", secure, got)
		}
	}
}

func TestOnlyLoopbackNeedsNoTLS(t *testing.T) {
	for address, want := range map[string]bool{
		"": false, "0.0.0.0": false, "::": false, "192.0.2.1": false, "localhost": false,
		"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestForeignSitesMayNotPost(t *testing.T) {
	w := addressesWorld(t)
	for _, path := range []string{"/sign-in", "/sign-out"} {
		request := httptest.NewRequest(http.MethodPost, path, strings.NewReader("token=token-admin"))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Sec-Fetch-Site", "cross-site")
		answer := httptest.NewRecorder()
		w.site.ServeHTTP(answer, request)
		if answer.Code != http.StatusForbidden || len(answer.Result().Cookies()) != 0 {
			t.Errorf("%s: status %d", path, answer.Code)
		}
	}
}

func TestEveryAnswerHasSecurityHeaders(t *testing.T) {
	w := addressesWorld(t)
	b := w.as(t, "admin")
	for _, path := range []string{"/", "/sign-in", "/static/console.js", "/static/no-such", "/no/such", "/pods/shop/web-0"} {
		answer, err := b.Get(b.base + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		policy := answer.Header.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || answer.Header.Get("X-Content-Type-Options") != "nosniff" || answer.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v", path, answer.Header)
		}
		if store := answer.Header.Get("Cache-Control"); store != "no-store" && !strings.HasPrefix(path, "/static/console") {
			t.Errorf("%s: Cache-Control %s", path, store)
		}
	}
	for _, template := range []string{"/static/layout.html", "/static/..%2fsite.go", "/static/pages"} {
		if status, _ := b.get(template); status != http.StatusNotFound {
			t.Errorf("%s: status %d", template, status)
		}
	}
}

func TestSignInIsLimited(t *testing.T) {
	w := addressesWorld(t)
	try := func(client string) int {
		request := httptest.NewRequest(http.MethodPost, "/sign-in", strings.NewReader("token=bad"))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.RemoteAddr = client
		answer := httptest.NewRecorder()
		w.site.ServeHTTP(answer, request)
		return answer.Code
	}
	for i := range signInBurst + 3 {
		want := http.StatusUnauthorized
		if i >= signInBurst {
			want = http.StatusTooManyRequests
		}
		if got := try("192.0.2.1:1000"); got != want {
			t.Errorf("attempt %d: status %d, want %d", i+1, got, want)
		}
	}
	if got := try("192.0.2.2:1000"); got != http.StatusUnauthorized {
		t.Errorf("another client: status %d", got)
	}
	w.wait(signInsEvery)
	if got := try("192.0.2.1:1001"); got != http.StatusUnauthorized {
		t.Errorf("after a while: status %d", got)
	}
	for i := range signInBurst { // other addresses of one host
		try("[2001:db8::" + string(rune('1'+i)) + "]:1000")
	}
	if got := try("[2001:db8::ffff]:1000"); got != http.StatusTooManyRequests {
		t.Errorf("another address of a /64: status %d", got)
	}
	if got := len(w.signIns.mu.clients); got != 4 { // with the /48
		t.Errorf("%d clients in memory", got)
	}
}

func TestStrangersLeaveSignInsToOthers(t *testing.T) {
	at := threeAtNight()
	many := func(l *signInLimit, addr netip.Addr, step func(netip.Addr) netip.Addr) (allowed int) {
		for range maxClients {
			if l.allow(netip.AddrPortFrom(addr, 1000).String(), at) {
				allowed++
			}
			addr = step(addr)
		}
		return allowed
	}
	l := newSignInLimit()
	next64 := func(a netip.Addr) netip.Addr {
		bytes := a.As16()
		binary.BigEndian.PutUint16(bytes[6:], binary.BigEndian.Uint16(bytes[6:])+1)
		return netip.AddrFrom16(bytes)
	}
	if got := many(l, netip.MustParseAddr("2001:db8::1"), next64); got != siteClients*signInBurst {
		t.Errorf("one /48 has %d attempts at once", got)
	}
	l = newSignInLimit()
	for i, addr := 0, netip.MustParseAddr("198.18.0.0"); i < maxClients; i, addr = i+1, addr.Next() {
		l.of(addr, 32, 1, at).AllowN(at, 1)
	}
	if got := many(l, netip.MustParseAddr("10.0.0.0"), netip.Addr.Next); got != allSignInBurst/2 {
		t.Errorf("clients past those in memory have %d attempts at once", got)
	}
	if !l.allow("198.18.0.9:1000", at) {
		t.Error("they leave no attempt to a known client")
	}
}

func TestOnlyTokensCountAsAttempts(t *testing.T) {
	w := addressesWorld(t)
	for range signInBurst + 1 {
		if status, _ := w.browser(t).post("/sign-in", url.Values{"token": {"two words"}}); status != http.StatusBadRequest {
			t.Fatalf("status %d", status)
		}
	}
	if status, _ := w.browser(t).post("/sign-in", url.Values{"token": {"token-admin"}}); status != http.StatusOK {
		t.Errorf("a token after empty attempts: status %d", status)
	}
}

// signedIn reports whether the browser has a session.
func signedIn(b browser) bool {
	b.tb.Helper()
	_, body := b.get("/")
	return strings.Contains(body, "Sign out")
}

func TestSessionsEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(*world, browser)
		want bool
	}{
		"nothing happened": {func(*world, browser) {}, true},
		"signed out":       {func(_ *world, b browser) { b.post("/sign-out", nil) }, false},
		"idle":             {func(w *world, _ browser) { w.wait(sessionIdle + time.Second) }, false},
		"idle for an hour": {func(w *world, _ browser) { w.wait(time.Hour) }, true},
		"idle while another user signs in": {func(w *world, b browser) {
			w.user("other")
			w.wait(time.Hour)
			w.as(b.tb, "other")
		}, true},
		"old": {func(w *world, b browser) {
			for range 30 {
				w.wait(sessionAge / 29)
				b.get("/")
			}
		}, false},
		"used for hours": {func(w *world, b browser) {
			for range 24 {
				w.wait(reviewEvery * 2)
				b.get("/")
			}
		}, true},
		"token revoked": {func(w *world, _ browser) {
			w.authority.set(func(a *authority) { delete(a.tokens, "token-admin") })
			w.wait(reviewEvery + time.Second)
		}, false},
		"another user": {func(w *world, _ browser) {
			w.authority.set(func(a *authority) { a.tokens["token-admin"] = "other" })
			w.wait(reviewEvery + time.Second)
		}, false},
		"short outage": {func(w *world, _ browser) {
			w.authority.set(func(a *authority) { a.away = true })
			w.wait(reviewPatience - time.Second)
		}, true},
		"long outage": {func(w *world, _ browser) {
			w.authority.set(func(a *authority) { a.away = true })
			w.wait(reviewPatience + time.Second)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := addressesWorld(t)
			b := w.as(t, "admin")
			tc.end(w, b)
			if got := signedIn(b); got != tc.want {
				t.Errorf("signed in: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestOpenPageProlongsNoSession reads a page again for hours, like its script, and hears of changes.
func TestOpenPageProlongsNoSession(t *testing.T) {
	w := addressesWorld(t)
	b := w.as(t, "admin")
	for range sessionIdle/(10*time.Minute) + 1 {
		w.wait(10 * time.Minute)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.base+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Sec-Fetch-Dest", "empty")
		b.read(b.Do(request))
	}
	if signedIn(b) {
		t.Error("an unattended page keeps its session")
	}
}

// heldAccess accepts each token when the test lets it.
type heldAccess struct {
	access
	let chan struct{}
}

func (a heldAccess) Identify(context.Context, string) (tokenauth.User, bool, error) {
	<-a.let
	return tokenauth.User{}, true, nil
}

// TestRequestsWaitForReview has two requests at once after an hour, like a page that becomes visible again.
func TestRequestsWaitForReview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := heldAccess{let: make(chan struct{})}
		at := threeAtNight()
		s := newSessions(held, func() time.Time { return at })
		go func() { held.let <- struct{}{} }()
		cookie, _, err := s.signIn(t.Context(), "token")
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Hour)
		goOn := make(chan bool, 2)
		for range 2 {
			go func() { goOn <- s.of(t.Context(), cookie, true) != nil }()
		}
		synctest.Wait() // one request reviews the token, and the other waits
		held.let <- struct{}{}
		for range 2 {
			if !<-goOn {
				t.Error("a request during a review ended the session")
			}
		}
	})
}

func TestSessionsOfUserAreBounded(t *testing.T) {
	w := addressesWorld(t)
	w.user("other", "*")
	first := w.as(t, "admin")
	other := w.as(t, "other")
	for range maxOwnSessions {
		w.wait(time.Second)
		if _, _, err := w.sessions.signIn(t.Context(), "token-admin"); err != nil {
			t.Fatal(err)
		}
	}
	if signedIn(first) {
		t.Error("the oldest session goes on")
	}
	if !signedIn(other) || len(w.sessions.mu.all) != maxOwnSessions+1 {
		t.Errorf("%d sessions, and another user's ended", len(w.sessions.mu.all))
	}
}

// TestFullConsoleEndsSessionOfLargestUser fills the console with sessions of one user and signs in a third.
func TestFullConsoleEndsSessionOfLargestUser(t *testing.T) {
	w := addressesWorld(t)
	w.user("other", "*")
	w.user("third", "*")
	oldest, other := w.as(t, "admin"), w.as(t, "other")
	w.wait(time.Second)
	large, _, err := w.Access.Identify(t.Context(), "token-admin")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSessions - 2 {
		x := &session{user: large, began: w.now(), used: w.now(), reviewed: w.now(), key: sha256.Sum256([]byte(strconv.Itoa(i)))}
		w.sessions.mu.all[x.key] = x
	}
	third := w.as(t, "third")
	if !signedIn(third) || !signedIn(other) || signedIn(oldest) || len(w.sessions.mu.all) != maxSessions {
		t.Errorf("%d sessions: the new one %v, that of another user %v, the oldest of the largest user %v", len(w.sessions.mu.all), signedIn(third), signedIn(other), signedIn(oldest))
	}
}
