package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"spiderpool.dev/spiderpool/internal/crash"
)

// serveHTTP serves health checks and metrics until ctx ends. The agent is in the
// node's network, so the kubelet probes it on the node's address. /healthz always
// succeeds: a restart would not bring an unreachable API server back.
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
	servers := map[int]http.Handler{a.cfg.HealthPort: health}
	if a.cfg.Metrics.Enabled {
		metrics := http.NewServeMux()
		metrics.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{}))
		servers[a.cfg.Metrics.Port] = metrics
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for port, handler := range servers {
		wg.Go(func() {
			if err := listenAndServe(ctx, net.JoinHostPort(a.options.bindAddress, strconv.Itoa(port)), handler, a.log); err != nil {
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

func listenAndServe(ctx context.Context, address string, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Addr:              address,
		Handler:           crash.OnPanic(handler),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = server.Close()
	}()
	err := server.ListenAndServe()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", address, err)
	}
	<-stopped
	return nil
}
