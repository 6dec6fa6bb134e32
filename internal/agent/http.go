package agent

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// serveHTTP serves health checks and metrics until ctx ends. The agent is in the
// node's network, so the kubelet probes it on 127.0.0.1. /healthz always succeeds: a
// restart would not bring an unreachable API server back.
func (a *agent) serveHTTP(ctx context.Context) error {
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	health.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	servers := map[string]httpserver.Server{a.address(a.cfg.HealthAddress, a.cfg.HealthPort): {Handler: health, Log: a.log}}
	if a.cfg.Metrics.Enabled {
		server, err := a.metricsServer()
		if err != nil {
			return err
		}
		servers[a.address(a.cfg.Metrics.Address, a.cfg.Metrics.Port)] = server
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for address, server := range servers {
		wg.Go(func() {
			if err := server.Run(ctx, address); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (a *agent) metricsServer() (httpserver.Server, error) {
	server := httpserver.Server{Log: a.log}
	metrics := promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{})
	if a.cfg.Metrics.Secure {
		server.Certificate = httpserver.NewKeyPair(a.cfg.CertDir).Certificate
		a.metrics.registry.MustRegister(observe.NewCertificateExpiry("metrics", server.Certificate))
		_, err := server.Certificate(nil)
		if err != nil {
			a.log.Warn("the metrics wait for their certificate", "secret", a.cfg.CertDir, "err", err)
		}
		if metrics, err = a.options.protect(metrics); err != nil {
			return server, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	server.Handler = mux
	return server, nil
}

// address returns the address to listen on; the flag --bind-address comes first.
func (a *agent) address(host string, port int) string {
	return net.JoinHostPort(cmp.Or(a.options.bindAddress, host), strconv.Itoa(port))
}
