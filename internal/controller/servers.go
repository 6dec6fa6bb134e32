package controller

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// The servers replace those of controller-runtime, which limit neither the number of
// connections nor, for 90 seconds, the time of an idle one.

// getCertificate has the form of tls.Config.GetCertificate.
type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// newHealthServer returns a server of /healthz and /readyz for every replica.
func newHealthServer(ctx context.Context, address string, ready map[string]healthz.Checker, log *slog.Logger) (*manager.Server, error) {
	mux := http.NewServeMux()
	for path, checks := range map[string]map[string]healthz.Checker{"/healthz": {"ping": healthz.Ping}, "/readyz": ready} {
		handler := http.StripPrefix(path, &healthz.Handler{Checks: checks})
		mux.Handle(path, handler)
		mux.Handle(path+"/", handler)
	}
	return listen(ctx, "health", address, httpserver.Server{Handler: mux, Log: log})
}

// newMetricsServer returns a server of /metrics for every replica. With Secure, it uses
// the certificate of the webhooks.
func newMetricsServer(ctx context.Context, address string, secure bool, certificate getCertificate, server *rest.Config, log *slog.Logger) (*manager.Server, error) {
	metrics := promhttp.HandlerFor(ctrlmetrics.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError})
	s := httpserver.Server{Log: log}
	if secure {
		s.Certificate = certificate
		var err error
		if metrics, err = tokenauth.New(server, "/metrics", metrics, log); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	s.Handler = mux
	return listen(ctx, "metrics", address, s)
}

// addServers adds the servers of health checks and metrics to the manager. address comes
// before those of the configuration.
func addServers(ctx context.Context, mgr ctrl.Manager, cfg config.Controller, address string, ready map[string]healthz.Checker, certificate getCertificate, log *slog.Logger) error {
	health, err := newHealthServer(ctx, hostPort(cmp.Or(address, cfg.HealthAddress), cfg.HealthPort), ready, log)
	if err != nil {
		return err
	}
	if err := mgr.Add(health); err != nil || !cfg.Metrics.Enabled {
		return err
	}
	at := hostPort(cmp.Or(address, cfg.Metrics.Address), cfg.Metrics.Port)
	metrics, err := newMetricsServer(ctx, at, cfg.Metrics.Secure, certificate, mgr.GetConfig(), log)
	if err != nil {
		return err
	}
	return mgr.Add(metrics)
}

func listen(ctx context.Context, name, address string, s httpserver.Server) (*manager.Server, error) {
	listener, err := s.Listen(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	timeout := drainTimeout
	return &manager.Server{Name: name, Server: s.HTTP(), Listener: listener, ShutdownTimeout: &timeout}, nil
}

const (
	// drainTimeout is how long a server may finish requests at the end of the process. A
	// connection without a request yet counts as busy for 5 s, so it must be less than
	// stopTimeout.
	drainTimeout = 2 * time.Second
	// webhookConnections is the number of connections of the webhooks. API servers need a
	// few; the others are for strangers, who must not take all of them easily.
	webhookConnections = 1024
	// webhookIdle is longer than for other servers: an API server that uses a connection at
	// the moment of its end fails the request of a user.
	webhookIdle = 90 * time.Second
)

// webhookServer is the server of controller-runtime with bounded connections.
type webhookServer struct {
	webhook.Server // counts the requests
	mux            *http.ServeMux
	address        string
	certificate    getCertificate
	log            *slog.Logger
	listening      atomic.Bool
}

func newWebhookServer(address string, certificate getCertificate, log *slog.Logger) *webhookServer {
	mux := http.NewServeMux()
	inner := webhook.NewServer(webhook.Options{WebhookMux: mux})
	return &webhookServer{Server: inner, mux: mux, address: address, certificate: certificate, log: log}
}

func (s *webhookServer) listen(ctx context.Context) (*manager.Server, error) {
	return listen(ctx, "webhook", s.address, httpserver.Server{
		Handler: s.mux, Log: s.log, Certificate: s.certificate, Connections: webhookConnections, Idle: webhookIdle,
	})
}

// Start implements webhook.Server.
func (s *webhookServer) Start(ctx context.Context) error {
	server, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.listening.Store(true)
	return server.Start(ctx)
}

// StartedChecker implements webhook.Server.
func (s *webhookServer) StartedChecker() healthz.Checker {
	return func(*http.Request) error {
		if !s.listening.Load() {
			return errors.New("the webhooks do not listen yet")
		}
		_, err := s.certificate(nil)
		return err
	}
}

// addChecks adds the readiness checks. A replica is ready once its caches are filled and
// its webhooks answer, whether it leads or not.
func addChecks(ready map[string]healthz.Checker, mgr ctrl.Manager, index *poolindex.Index) {
	ready["caches"] = func(request *http.Request) error {
		ctx, cancel := context.WithTimeout(request.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) || !index.Synced() {
			return errors.New("the caches are not filled yet")
		}
		return nil
	}
	ready["webhooks"] = mgr.GetWebhookServer().StartedChecker()
}

// certificateOf returns the source of the webhooks' certificate.
func certificateOf(t config.TLS, issued getCertificate) getCertificate {
	if t.Method == config.TLSAuto {
		return issued
	}
	return httpserver.NewKeyPair(t.CertDir).Certificate
}
