package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// newHealthServer returns a server of /healthz and /readyz for every replica. The
// manager's own one limits neither the number of connections nor, for 90 seconds, the
// time of an idle one.
func newHealthServer(ctx context.Context, address string, ready map[string]healthz.Checker, log *slog.Logger) (*manager.Server, error) {
	mux := http.NewServeMux()
	for path, checks := range map[string]map[string]healthz.Checker{"/healthz": {"ping": healthz.Ping}, "/readyz": ready} {
		handler := http.StripPrefix(path, &healthz.Handler{Checks: checks})
		mux.Handle(path, handler)
		mux.Handle(path+"/", handler)
	}
	server := httpserver.Server{Handler: mux, Log: log}
	listener, err := server.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	return &manager.Server{Name: "health", Server: server.HTTP(), Listener: listener}, nil
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
