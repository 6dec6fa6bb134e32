package tokenauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
)

// reviewServer answers reviews like an API server: users may list pods in their own namespace.
type reviewServer struct {
	away    bool
	revoked bool
	reviews int
}

func (s *reviewServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.reviews++
	if s.away {
		http.Error(w, "away", http.StatusInternalServerError)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
		var review authenticationv1.TokenReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		name, serial, _ := strings.Cut(review.Spec.Token, "#")
		review.Status.Authenticated = name != "bad"
		review.Status.User = authenticationv1.UserInfo{Username: name, Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{credentialID: {serial}}}
		_ = json.NewEncoder(w).Encode(review)
		return
	}
	var review authorizationv1.SubjectAccessReview
	_ = json.NewDecoder(r.Body).Decode(&review)
	of := review.Spec.ResourceAttributes
	review.Status.Allowed = !s.revoked && of.Verb == "list" && of.Resource == "pods" && of.Namespace == review.Spec.User && len(review.Spec.Extra[credentialID]) == 1
	_ = json.NewEncoder(w).Encode(review)
}

func newAccessWorld(t *testing.T) (*Access, *reviewServer, *time.Time) {
	t.Helper()
	server := &reviewServer{}
	api := httptest.NewServer(server)
	t.Cleanup(api.Close)
	access, err := NewAccess(&rest.Config{Host: api.URL})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_000_000, 0)
	access.now = func() time.Time { return at }
	access.answers.Now = access.now
	return access, server, &at
}

func (a *Access) identified(t *testing.T, token string) User {
	t.Helper()
	user, known, err := a.Identify(t.Context(), token)
	if err != nil || !known {
		t.Fatalf("%s: known %v, %v", token, known, err)
	}
	return user
}

func TestRightsAreAskedOncePerUser(t *testing.T) {
	access, server, at := newAccessWorld(t)
	first, again, other := access.identified(t, "shop#1"), access.identified(t, "shop#2"), access.identified(t, "blog#3")
	if first.ID() != again.ID() || first.ID() == other.ID() {
		t.Error("tokens of one user differ, or users are the same")
	}
	if _, known, err := access.Identify(t.Context(), "bad"); known || err != nil {
		t.Errorf("bad token: %v, %v", known, err)
	}
	server.reviews = 0
	ask := func(user User, namespace string, want bool, reviews int) {
		t.Helper()
		got, err := access.MayList(t.Context(), user, Right{Resource: "pods", Namespace: namespace})
		if got != want || err != nil || server.reviews != reviews {
			t.Errorf("%s in %q: %v, %v after %d reviews, want %v after %d", user.Name, namespace, got, err, server.reviews, want, reviews)
		}
	}
	ask(first, "shop", true, 1)
	ask(first, "shop", true, 1)
	ask(again, "shop", true, 1)
	ask(first, "blog", false, 2)
	ask(first, "blog", false, 2)
	ask(first, "", false, 3)
	ask(other, "shop", false, 4)
	server.revoked = true
	*at = at.Add(fresh)
	ask(first, "shop", false, 5)
}

func TestRightsOutliveShortOutage(t *testing.T) {
	access, server, at := newAccessWorld(t)
	user, right := access.identified(t, "shop#1"), Right{Resource: "pods", Namespace: "shop"}
	if ok, err := access.MayList(t.Context(), user, right); !ok || err != nil {
		t.Fatal(ok, err)
	}
	server.away = true
	*at = at.Add(stale - time.Second)
	if ok, err := access.MayList(t.Context(), user, right); !ok || err != nil {
		t.Errorf("short outage: %v, %v", ok, err)
	}
	if ok, err := access.MayList(t.Context(), user, Right{Resource: "nodes"}); ok || err == nil {
		t.Errorf("a right without an answer: %v, %v", ok, err)
	}
	*at = at.Add(time.Second)
	if ok, err := access.MayList(t.Context(), user, right); ok || err == nil {
		t.Errorf("long outage: %v, %v", ok, err)
	}
	if _, known, err := access.Identify(t.Context(), "shop#1"); known || err == nil {
		t.Errorf("a token without an answer: %v, %v", known, err)
	}
}

// transport is an API server in this process.
type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestReviewsAtATimeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Int64
		let := make(chan struct{})
		access, err := NewAccess(&rest.Config{Host: "http://api.example", Transport: transport(func(*http.Request) (*http.Response, error) {
			running.Add(1)
			<-let
			return nil, errors.New("away")
		})})
		if err != nil {
			t.Fatal(err)
		}
		var work sync.WaitGroup
		for i := range maxReviews {
			work.Go(func() { _, _, _ = access.Identify(t.Context(), "token") })
			work.Go(func() { _, _ = access.MayList(t.Context(), User{}, Right{Resource: fmt.Sprint("r", i)}) })
		}
		synctest.Wait()
		if got := running.Load(); got != maxReviews {
			t.Errorf("%d reviews at a time", got)
		}
		close(let)
		work.Wait()
	})
}
