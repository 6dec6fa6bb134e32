//go:build apiserver

package controller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// obstacle forbids some requests of a replica in place of the API server.
type obstacle struct {
	active  atomic.Bool
	met     atomic.Int64 // forbidden requests
	forbids func(*http.Request) bool
}

func newObstacle(forbids func(*http.Request) bool) *obstacle {
	o := &obstacle{forbids: forbids}
	o.active.Store(true)
	return o
}

// config returns a configuration that sends requests through the obstacle.
func (o *obstacle) config(t *testing.T, namespace string) *rest.Config {
	server := kubetest.Role(t, "spiderpool-controller", namespace, "controller-node")
	server.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if !o.active.Load() || !o.forbids(request) {
				return next.RoundTrip(request)
			}
			o.met.Add(1)
			status := `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"forbidden by the test"}`
			return &http.Response{
				StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}},
				Body: io.NopCloser(strings.NewReader(status)), Request: request,
			}, nil
		})
	})
	return server
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		forbids          func(*http.Request) bool
		missing, present string
	}{
		"the certificate cannot be written": {
			func(r *http.Request) bool {
				return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/secrets")
			},
			"[-]certificate failed", "[+]caches ok",
		},
		"the webhook configuration cannot be written": {
			func(r *http.Request) bool {
				return r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/validatingwebhookconfigurations/")
			},
			"[-]certificate failed", "[+]caches ok",
		},
		"pods cannot be listed": {
			func(r *http.Request) bool { return r.URL.Path == "/api/v1/pods" },
			"[-]caches failed", "",
		},
		"pools cannot be listed": {
			func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/spiderippools") },
			"[-]caches failed", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := kubetest.Client(t)
			namespace := kubetest.Namespace(t, client)
			cfg := configuration(t, namespace)
			kubetest.Webhooks(t, client, namespace, cfg.Webhook.Port)
			o := newObstacle(c.forbids)
			r := runAt(t, o.config(t, cfg.PodNamespace), cfg)
			kubetest.Eventually(t, func(ctx context.Context) error {
				var said bytes.Buffer
				err := r.get(ctx, cfg.HealthPort, "/readyz", &said)
				if err == nil {
					t.Fatalf("ready: %s", &said)
				}
				if !strings.Contains(said.String(), c.missing) || !strings.Contains(said.String(), c.present) || o.met.Load() == 0 {
					return fmt.Errorf("want %s and %s after a forbidden request, got %s (%w; %d forbidden)", c.missing, c.present, &said, err, o.met.Load())
				}
				return nil
			})
			o.active.Store(false)
			kubetest.Eventually(t, r.ready)
		})
	}
}

// Caches are not filled right after the start, or if a right is missing.
func TestReplicaStopsWithUnfilledCaches(t *testing.T) {
	client := kubetest.Client(t)
	cfg := configuration(t, kubetest.Namespace(t, client))
	o := newObstacle(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/spiderippools") })
	r := runAt(t, o.config(t, cfg.PodNamespace), cfg)
	kubetest.Eventually(t, func(context.Context) error {
		if o.met.Load() == 0 {
			return errors.New("no pools were asked for yet")
		}
		return nil
	})
	r.stop()
	// Now the rest of the replica in this process can end.
	o.active.Store(false)
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := r.get(ctx, cfg.HealthPort, "/healthz", nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("it still answers: %v", err)
		}
		return nil
	})
}
