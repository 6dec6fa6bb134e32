package kubetest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// Manager creates a manager, calls setup, starts the manager and waits for its cache.
// At the end of the test it stops the manager, which must take less than ten seconds.
// The manager serves nothing and elects no leader, unless options change that. It has the
// rights of the controller.
func Manager(tb testing.TB, setup func(ctrl.Manager) error, options ...func(*ctrl.Options)) ctrl.Manager {
	tb.Helper()
	return ManagerIn(tb, releaseNamespace, setup, options...)
}

// ManagerIn is Manager with the rights of an installation in the namespace.
func ManagerIn(tb testing.TB, namespace string, setup func(ctrl.Manager) error, options ...func(*ctrl.Options)) ctrl.Manager {
	tb.Helper()
	return manager(tb, Role(tb, "spiderpool-controller", namespace, ""), setup, options...)
}

// ManagerWith is Manager with the rights of another golden file of the chart, e.g. "secure".
func ManagerWith(tb testing.TB, values string, setup func(ctrl.Manager) error, options ...func(*ctrl.Options)) ctrl.Manager {
	tb.Helper()
	return manager(tb, RoleWith(tb, values, "spiderpool-controller", releaseNamespace, ""), setup, options...)
}

func manager(tb testing.TB, config *rest.Config, setup func(ctrl.Manager) error, options ...func(*ctrl.Options)) ctrl.Manager {
	tb.Helper()
	ctrl.SetLogger(logr.FromSlogHandler(slog.DiscardHandler))
	skip := true
	all := ctrl.Options{
		Scheme:  scheme.New(),
		Logger:  logr.FromSlogHandler(slog.DiscardHandler),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// Controllers must have unique names in a process, and every test registers them again.
		Controller: ctrlconfig.Controller{SkipNameValidation: &skip},
	}
	for _, option := range options {
		option(&all)
	}
	mgr, err := ctrl.NewManager(config, all)
	if err != nil {
		tb.Fatalf("kubetest: make a manager: %v", err)
	}
	if err := setup(mgr); err != nil {
		tb.Fatalf("kubetest: set the manager up: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- mgr.Start(ctx) }()
	tb.Cleanup(func() {
		cancel()
		select {
		case err := <-stopped:
			if err != nil {
				tb.Errorf("kubetest: the manager ended with: %v", err)
			}
		case <-time.After(10 * time.Second):
			tb.Error("kubetest: the manager did not stop within 10 s")
		}
	})
	if !mgr.GetCache().WaitForCacheSync(tb.Context()) {
		tb.Fatal("kubetest: the manager's cache did not fill")
	}
	return mgr
}
