package kubetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ScrapesAreProtected checks that the metrics at address, e.g. "127.0.0.1:5711", have a
// certificate of authorities for the name host, and that only a permitted client gets
// them.
func ScrapesAreProtected(tb testing.TB, namespace, address, host string, authorities []byte) {
	tb.Helper()
	meta := metav1.ObjectMeta{Name: "prometheus-" + namespace}
	keep(tb, Client(tb), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "prometheus"}},
		})
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authorities)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: host}}
	defer transport.CloseIdleConnections()
	scrape := func(ctx context.Context, token string) (int, string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
		if err != nil {
			return 0, "", err
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := transport.RoundTrip(request)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	permitted := Account(tb, namespace, "prometheus", "").BearerToken
	Eventually(tb, func(ctx context.Context) error { // the API server learns of the role
		status, body, err := scrape(ctx, permitted)
		if err != nil || status != http.StatusOK || !strings.Contains(body, "go_goroutines") {
			return fmt.Errorf("a permitted scrape gives status %d, error %v, %.200s", status, err, body)
		}
		return nil
	})
	for name, token := range map[string]string{"no token": "", "garbage": "garbage", "without the right": Account(tb, namespace, "stranger", "").BearerToken} {
		status, body, err := scrape(tb.Context(), token)
		if err != nil || status != http.StatusUnauthorized && status != http.StatusForbidden || strings.Contains(body, "go_goroutines") {
			tb.Errorf("%s: status %d, error %v, %.200s", name, status, err, body)
		}
	}
	if response, err := http.Get("http://" + address + "/metrics"); err == nil {
		defer response.Body.Close()
		if response.StatusCode == http.StatusOK {
			tb.Error("the metrics are served without TLS")
		}
	}
}
