package tokenauth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// reviewer asks the API server about tokens.
type reviewer struct {
	client rest.Interface
	path   string
}

func newReviewer(config *rest.Config, path string) (*reviewer, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // Guard limits the requests
	// The scheme decodes errors only. The types of the two groups would cost the agent memory.
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("create the client for reviews of tokens: %w", err)
	}
	return &reviewer{client: client, path: path}, nil
}

// review asks whether the API server knows the token, then whether its user may get the
// path. See Guard for the errors.
func (r *reviewer) review(ctx context.Context, token string) error {
	user, err := r.authenticate(ctx, token)
	if err != nil {
		return err
	}
	user.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: r.path, Verb: "get"}
	allowed, err := r.authorize(ctx, user)
	if err == nil && !allowed {
		return &refusal{http.StatusForbidden, fmt.Sprintf("%s may not get %s; bind a ClusterRole with nonResourceURLs: [%s], verbs: [get]", user.User, r.path, r.path)}
	}
	return err
}

// authenticate returns the user of a token, without a right, or a refusal.
func (r *reviewer) authenticate(ctx context.Context, token string) (authorizationv1.SubjectAccessReviewSpec, error) {
	review := authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
		Spec:     authenticationv1.TokenReviewSpec{Token: token},
	}
	if err := r.post(ctx, "/apis/authentication.k8s.io/v1/tokenreviews", &review); err != nil {
		return authorizationv1.SubjectAccessReviewSpec{}, fmt.Errorf("review a token: %w", err)
	}
	if !review.Status.Authenticated {
		return authorizationv1.SubjectAccessReviewSpec{}, &refusal{http.StatusUnauthorized, "the API server does not accept the token; send a valid one"}
	}
	user := review.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	return authorizationv1.SubjectAccessReviewSpec{User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra}, nil
}

// authorize asks whether a user has a right.
func (r *reviewer) authorize(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	review := authorizationv1.SubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"},
		Spec:     spec,
	}
	if err := r.post(ctx, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review); err != nil {
		return false, fmt.Errorf("review the rights of %s: %w", spec.User, err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}

// post sends a review and reads the answer into it.
func (r *reviewer) post(ctx context.Context, path string, review any) error {
	body, err := json.Marshal(review)
	if err != nil {
		return err
	}
	result := r.client.Post().AbsPath(path).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).Do(ctx)
	if err := result.Error(); err != nil {
		return err
	}
	answer, err := result.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, review)
}
