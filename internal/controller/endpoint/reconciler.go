// Package endpoint repairs SpiderEndpoints where their agent does not. Reconciler
// deletes a SpiderEndpoint without a pod and without leases, which a lost node leaves
// behind. Restorer recreates a SpiderEndpoint that a user deleted although its pod
// holds the addresses in it.
package endpoint

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Reconciler deletes SpiderEndpoints without a pod and without leases.
type Reconciler struct {
	client client.Client
	live   client.Reader
	log    *slog.Logger
}

// New returns a reconciler. The client c must have a cache with the indexes of
// blockindex.IndexBlocksByHolder; live reads from the API server.
func New(c client.Client, live client.Reader, log *slog.Logger) *Reconciler {
	return &Reconciler{client: c, live: live, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "endpoint" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	deletions := predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderEndpoint{}).
		Watches(&corev1.Pod{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(deletions)).
		Watches(&v2beta1.SpiderIPBlock{}, holdersThatLostLeases()).
		Complete(r)
}

// holdersThatLostLeases queues the holders that a change of a block removes.
func holdersThatLostLeases() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	lost := func(q queue, before, after client.Object) {
		kept := map[lease.PodKey]bool{}
		if after != nil {
			for _, holder := range blockindex.HoldersOfBlock(after.(*v2beta1.SpiderIPBlock)) {
				kept[holder] = true
			}
		}
		for _, holder := range blockindex.HoldersOfBlock(before.(*v2beta1.SpiderIPBlock)) {
			if !kept[holder] {
				q.Add(reconcile.Request{NamespacedName: client.ObjectKey(holder)})
			}
		}
	}
	return handler.Funcs{
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { lost(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { lost(q, e.Object, nil) },
	}
}

// Reconcile deletes one SpiderEndpoint if it has neither a pod nor leases.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	endpoint := &v2beta1.SpiderEndpoint{}
	if err := r.client.Get(ctx, request.NamespacedName, endpoint); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	blocks, err := blockindex.BlocksOfHolder(ctx, r.client, lease.PodKey(request.NamespacedName))
	if err != nil || len(blocks) > 0 {
		return ctrl.Result{}, err
	}
	// Read the cache first: most pods exist, and it costs no request.
	for _, reader := range []client.Reader{r.client, r.live} {
		err := reader.Get(ctx, request.NamespacedName, &corev1.Pod{})
		if err == nil {
			return ctrl.Result{}, nil
		}
		if !apierrors.IsNotFound(err) {
			return ctrl.Result{}, fmt.Errorf("read pod %s: %w", request, err)
		}
	}
	err = r.client.Delete(ctx, endpoint, client.Preconditions{UID: &endpoint.UID, ResourceVersion: &endpoint.ResourceVersion})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("delete SpiderEndpoint %s: %w", request, err)
	}
	r.log.InfoContext(ctx, "deleted the SpiderEndpoint of a deleted pod", "pod", request.String(), "uid", endpoint.Status.Current.UID)
	return ctrl.Result{}, nil
}
