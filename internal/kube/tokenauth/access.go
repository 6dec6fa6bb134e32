package tokenauth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/readcache"
)

// maxReviews limits the reviews at a time. A slow API server then gets no more of them than a fast one.
const maxReviews = 16

// maxAnswers limits the answers about rights in memory. A user with rights in single namespaces needs
// about three for each namespace.
const maxAnswers = 20_000

// credentialID is the key of a token's ID in the extra fields of its user. It gives no right.
const credentialID = "authentication.kubernetes.io/credential-id"

// Access tells the user of a token, and which objects a user may list. It is for a program that reads
// objects with its own rights and shows each user a part of them.
//
// An answer about a right serves for a minute; while the API server does not answer, for ten, like the
// permissions of Guard.
type Access struct {
	reviewer *reviewer
	now      func() time.Time
	answers  readcache.Cache[question, verdict]
	reviews  chan struct{} // has one value for each running review
}

// User is a user that the API server knows.
type User struct {
	Name string
	spec authorizationv1.SubjectAccessReviewSpec
	id   [sha256.Size]byte // of name, UID, groups and extra, so the same for all tokens of a user
}

// ID identifies a user with its groups: two users with one ID have the same rights.
func (u User) ID() [sha256.Size]byte { return u.id }

// Right is the right to list objects of a resource. Without a Namespace, it is that for all namespaces,
// or for a resource of the cluster scope.
type Right struct{ Group, Resource, Namespace string }

type question struct {
	user [sha256.Size]byte
	Right
}

type verdict struct {
	allowed bool
	at      time.Time
}

// NewAccess returns an access that sends its reviews to the API server in config.
func NewAccess(config *rest.Config) (*Access, error) {
	reviewer, err := newReviewer(config, "")
	if err != nil {
		return nil, err
	}
	return &Access{
		reviewer: reviewer, now: time.Now, reviews: make(chan struct{}, maxReviews),
		answers: readcache.Cache[question, verdict]{TTL: fresh, Max: maxAnswers, Now: time.Now},
	}, nil
}

// Identify returns the user of a token, and false if the API server does not accept it. An error means
// that the API server gave no answer.
func (a *Access) Identify(ctx context.Context, token string) (user User, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if err := a.begin(ctx); err != nil {
		return User{}, false, err
	}
	defer a.end()
	spec, err := a.reviewer.authenticate(ctx, token)
	var refused *refusal
	if errors.As(err, &refused) && refused.status == http.StatusUnauthorized {
		return User{}, false, nil
	}
	if err != nil {
		return User{}, false, err
	}
	same := spec
	same.Extra = maps.Clone(spec.Extra)
	delete(same.Extra, credentialID)
	text, err := json.Marshal(same)
	if err != nil {
		return User{}, false, fmt.Errorf("encode the user %s: %w", spec.User, err)
	}
	return User{Name: spec.User, spec: spec, id: sha256.Sum256(text)}, true, nil
}

// MayList reports whether a user has a right. Without an answer, it is false.
func (a *Access) MayList(ctx context.Context, user User, right Right) (bool, error) {
	answer, err := a.answers.Get(ctx, question{user.id, right}, func(ctx context.Context) (verdict, error) {
		// The answer is for all callers, so the end of the first one's request does not end the review.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		if err := a.begin(ctx); err != nil {
			return verdict{}, err
		}
		defer a.end()
		spec := user.spec
		spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Group: right.Group, Resource: right.Resource, Namespace: right.Namespace, Verb: "list"}
		allowed, err := a.reviewer.authorize(ctx, spec)
		return verdict{allowed, a.now()}, err
	})
	if err != nil && a.now().Sub(answer.at) >= stale {
		return false, err
	}
	return answer.allowed, nil
}

// begin waits until fewer than maxReviews reviews run.
func (a *Access) begin(ctx context.Context) error {
	select {
	case a.reviews <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d reviews of tokens and rights wait for the API server: %w", maxReviews, context.Cause(ctx))
	}
}

func (a *Access) end() { <-a.reviews }
