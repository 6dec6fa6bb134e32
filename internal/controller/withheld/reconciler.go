// Package withheld frees the addresses that a deleted SpiderCloudNetwork withheld. Those of
// an existing one are its own affair (package cloudnetwork).
package withheld

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
)

// freeAfter is how long a SpiderCloudNetwork must be gone, as this process sees it, before its
// addresses are free. Its pools go with it, and agents need time to read that.
const freeAfter = 5 * time.Minute

// holder finds and frees withheld addresses (withhold.Withholder).
type holder interface {
	List(ctx context.Context) ([]withhold.Withheld, error)
	Restore(ctx context.Context, h withhold.Withheld, addrs inet.Set) error
}

// Reconciler frees the addresses of deleted SpiderCloudNetworks.
type Reconciler struct {
	client client.Client
	live   client.Reader
	holder holder
	clock  clock.PassiveClock
	log    *slog.Logger
	gone   map[string]time.Time // since when a network is gone; one reconcile runs at a time
}

// New returns a reconciler. c has a cache; live reads from the API server.
func New(c client.Client, live client.Reader, h holder, log *slog.Logger) *Reconciler {
	return &Reconciler{client: c, live: live, holder: h, clock: clock.RealClock{}, log: log, gone: map[string]time.Time{}}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "withheld" }

// Register adds the reconciler to the manager. Its requests name SpiderCloudNetworks.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	deleted := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderCloudNetwork{}, builder.WithPredicates(deleted)).
		Watches(&v2beta1.SpiderIPBlock{}, handler.EnqueueRequestsFromMapFunc(networksOf)).
		Complete(r)
}

// networksOf returns the SpiderCloudNetworks that withhold addresses of a block.
func networksOf(_ context.Context, o client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, l := range o.(*v2beta1.SpiderIPBlock).Spec.Leases {
		request := reconcile.Request{NamespacedName: types.NamespacedName{Name: l.WithheldBy}}
		if l.WithheldBy != "" && !slices.Contains(requests, request) {
			requests = append(requests, request)
		}
	}
	return requests
}

// Reconcile frees the addresses of one SpiderCloudNetwork that has been gone for freeAfter.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	exists, err := r.exists(ctx, request.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if exists {
		delete(r.gone, request.Name)
		return ctrl.Result{}, nil
	}
	now := r.clock.Now()
	since, known := r.gone[request.Name]
	if !known {
		since = now
		r.gone[request.Name] = now
	}
	if wait := freeAfter - now.Sub(since); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	all, err := r.holder.List(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	var errs []error
	for _, h := range all {
		if h.Network == request.Name {
			r.log.InfoContext(ctx, "freeing addresses that a deleted SpiderCloudNetwork withheld", "network", h.Network, "pool", h.Pool, "ips", h.Addrs.String())
			errs = append(errs, r.holder.Restore(ctx, h, h.Addrs))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return ctrl.Result{}, err
	}
	delete(r.gone, request.Name)
	return ctrl.Result{}, nil
}

// exists asks the cache first, and the API server before it returns false.
func (r *Reconciler) exists(ctx context.Context, name string) (bool, error) {
	for _, reader := range []client.Reader{r.client, r.live} {
		var networks v2beta1.SpiderCloudNetworkList
		if err := reader.List(ctx, &networks); err != nil {
			return false, fmt.Errorf("list SpiderCloudNetworks: %w", err)
		}
		if slices.ContainsFunc(networks.Items, func(n v2beta1.SpiderCloudNetwork) bool { return n.Name == name }) {
			return true, nil
		}
	}
	return false, nil
}
