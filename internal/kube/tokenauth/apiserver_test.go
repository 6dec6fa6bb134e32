//go:build apiserver

package tokenauth

import (
	"errors"
	"net/http"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestServerJudgesTokens(t *testing.T) {
	c := kubetest.Client(t)
	ns := kubetest.Namespace(t, c)
	reader, other := kubetest.Account(t, ns, "reader", ""), kubetest.Account(t, ns, "other", "")
	role := &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}}
	role.Name = "metrics-reader-" + ns
	binding := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "reader"}},
	}
	binding.Name = role.Name
	kubetest.Create(t, c, role, binding)

	reviewer, err := newReviewer(kubetest.RoleWith(t, "secure", "spiderpool-agent", ns, "metrics-node"), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token  string
		status int
	}{
		"permitted": {reader.BearerToken, 0},
		"forbidden": {other.BearerToken, http.StatusForbidden},
		"garbage":   {"garbage", http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			err := reviewer.review(t.Context(), test.token)
			var answer *refusal
			if errors.As(err, &answer); test.status == 0 && err != nil || test.status != 0 && (answer == nil || answer.status != test.status) {
				t.Errorf("got %v, want status %d", err, test.status)
			}
		})
	}
}

// Without rights for reviews, the answer is an error, not a refusal of the client.
func TestReviewWithoutRightsIsNoAnswer(t *testing.T) {
	ns := kubetest.Namespace(t, kubetest.Client(t))
	powerless := kubetest.Account(t, ns, "powerless", "")
	reviewer, err := newReviewer(powerless, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if err := reviewer.review(t.Context(), powerless.BearerToken); err == nil || errors.As(err, new(*refusal)) {
		t.Errorf("got %v", err)
	}
}

// TestServerTellsUsersAndRights asks a real API server the questions of the console.
func TestServerTellsUsersAndRights(t *testing.T) {
	c := kubetest.Client(t)
	ns := kubetest.Namespace(t, c)
	user := kubetest.Account(t, ns, "viewer", "")
	role := &rbacv1.Role{Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}}}
	role.Namespace, role.Name = ns, "viewer"
	binding := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "viewer"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: "viewer"}},
	}
	binding.Namespace, binding.Name = ns, "viewer"
	kubetest.Create(t, c, role, binding)
	access, err := NewAccess(kubetest.RoleWith(t, "secure", "spiderpool-console", ns, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, known, err := access.Identify(t.Context(), "garbage"); known || err != nil {
		t.Errorf("garbage: %v, %v", known, err)
	}
	viewer := access.identified(t, user.BearerToken)
	if viewer.Name != "system:serviceaccount:"+ns+":viewer" {
		t.Errorf("the user is %s", viewer.Name)
	}
	for right, want := range map[Right]bool{
		{Resource: "pods", Namespace: ns}: true, {Resource: "pods"}: false, {Resource: "events", Namespace: ns}: false,
		{Group: "spiderpool.spidernet.io", Resource: "spiderippools"}: false,
	} {
		if got, err := access.MayList(t.Context(), viewer, right); got != want || err != nil {
			t.Errorf("%+v: %v, %v", right, got, err)
		}
	}
}
