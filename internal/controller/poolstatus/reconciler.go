// Package poolstatus writes everything of a SpiderIPPool except its specification: the
// label for the selectors of agents, its finalizer, and its status, a view of the
// leases in SpiderIPBlocks.
//
// A deleted pool stays until no lease names it; its condition lists the holders.
// The status of a pool is written after a burst of changes, at most once a second,
// and less often the longer its list of addresses is.
package poolstatus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/lease"
)

// workers is the number of concurrent reconciles. Each spends most of its time
// waiting for a write.
const workers = 8

// foreignMessage explains the condition of a pool with allocations of another release.
const foreignMessage = "status.allocatedIPs has %s of another Spiderpool release. This release keeps addresses in SpiderIPBlocks and would give them to other pods, " +
	"so the pool hands out none and keeps its status. Delete these pods, e.g. by scaling their applications to 0 while the other release still runs. " +
	"If none of them is left, clear the status: kubectl patch spiderippool %s --subresource=status --type=merge -p '{\"status\":{\"allocatedIPs\":null,\"allocatedIPCount\":null}}'"

// Reconciler keeps labels, finalizer and status of pools.
type Reconciler struct {
	client  client.Client
	live    client.Reader
	index   *poolindex.Index
	status  status.Writer
	clock   clock.PassiveClock
	log     *slog.Logger
	limiter limiter
}

// New returns a reconciler. The client of w must have a cache with the index of
// blockindex.IndexBlocksByPool; live reads from the API server.
func New(w status.Writer, live client.Reader, index *poolindex.Index, log *slog.Logger) *Reconciler {
	return &Reconciler{client: w.Client, live: live, index: index, status: w, clock: clock.RealClock{}, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "pool" }

// Register adds the reconciler to the manager. Call it before the index begins to watch.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	// The index and the queue get pools from the same informers, in no fixed order.
	// The index therefore queues each pool again after it has indexed it.
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderIPPool{}).
		Watches(&v2beta1.SpiderIPBlock{}, r.poolsOfBlocks()).
		WatchesRawSource(indexed(r.index)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// indexed queues the pools affected by a change of the index.
func indexed(index *poolindex.Index) source.Source {
	var mu sync.Mutex
	var queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	index.Subscribe(func(pools []string) {
		mu.Lock()
		defer mu.Unlock()
		if queue == nil {
			// This replica does not lead yet. All pools are queued when it does.
			return
		}
		for _, name := range pools {
			queue.Add(requestOf(name))
		}
	})
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		mu.Lock()
		defer mu.Unlock()
		queue = q
		return nil
	})
}

func requestOf(pool string) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey{Name: pool}}
}

// poolsOfBlocks queues the pools with leases in a block before or after its change.
func (r *Reconciler) poolsOfBlocks() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(q queue, objects ...client.Object) {
		for _, o := range objects {
			for _, name := range blockindex.PoolsOfBlock(o.(*v2beta1.SpiderIPBlock)) {
				r.limiter.changed(name, r.clock.Now())
				q.Add(requestOf(name))
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
	}
}

// Reconcile brings one pool up to date.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	pool := &v2beta1.SpiderIPPool{}
	if err := r.client.Get(ctx, request.NamespacedName, pool); err != nil {
		if apierrors.IsNotFound(err) {
			r.limiter.forget(request.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	// 1. Release a deleted pool once no pod holds an address of it.
	var leases []lease.Lease
	if pool.DeletionTimestamp != nil {
		var err error
		if leases, err = r.leases(ctx, pool.Name); err != nil {
			return ctrl.Result{}, err
		}
		if len(leases) == 0 && compile.ForeignAllocations(&pool.Status) == "" {
			return ctrl.Result{}, r.release(ctx, pool)
		}
	}
	// 2. Set the label that agents need, without delay.
	if err := r.complete(ctx, pool); err != nil {
		return ctrl.Result{}, err
	}
	// 3. Write the status when it is due.
	if wait := r.limiter.wait(pool.Name, r.clock.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	r.limiter.reading(pool.Name)
	if leases == nil {
		var err error
		if leases, err = r.leases(ctx, pool.Name); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, r.writeStatus(ctx, pool, leases)
}

// leases returns the pool's leases in use or retained.
func (r *Reconciler) leases(ctx context.Context, pool string) ([]lease.Lease, error) {
	held, err := blockindex.LeasesOfPool(ctx, r.client, pool)
	if err != nil {
		return nil, fmt.Errorf("read the leases of SpiderIPPool %s: %w", pool, err)
	}
	return held, nil
}

// release removes the finalizer of a deleted pool, unless the API server has a lease
// that the cache does not have yet. The cache's update queues the pool again.
func (r *Reconciler) release(ctx context.Context, pool *v2beta1.SpiderIPPool) error {
	var blocks v2beta1.SpiderIPBlockList
	if err := r.live.List(ctx, &blocks); err != nil {
		return fmt.Errorf("read the leases of SpiderIPPool %s: %w", pool.Name, err)
	}
	for i := range blocks.Items {
		if slices.Contains(blockindex.PoolsOfBlock(&blocks.Items[i]), pool.Name) {
			return nil
		}
	}
	before := pool.DeepCopy()
	if !controllerutil.RemoveFinalizer(pool, v2beta1.Finalizer) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := client.IgnoreNotFound(r.client.Patch(ctx, pool, patch)); err != nil {
		return fmt.Errorf("remove the finalizer of SpiderIPPool %s: %w", pool.Name, err)
	}
	r.log.InfoContext(ctx, "pool released for deletion", "pool", pool.Name)
	return nil
}

// complete sets label, finalizer and IP version if admission did not.
func (r *Reconciler) complete(ctx context.Context, pool *v2beta1.SpiderIPPool) error {
	before := pool.DeepCopy()
	if !compile.CompletePool(pool) {
		return nil
	}
	// A merge patch replaces whole lists, e.g. all finalizers, so the version must match.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, pool, patch); err != nil {
		return fmt.Errorf("complete SpiderIPPool %s: %w", pool.Name, err)
	}
	return nil
}

func (r *Reconciler) writeStatus(ctx context.Context, pool *v2beta1.SpiderIPPool, leases []lease.Lease) error {
	before := pool.DeepCopy()
	ready := r.ready(pool, leases)
	size := 0
	if ready.Reason != compile.ReasonForeign {
		size = SetStatus(pool, r.index.Reserved(), leases)
	}
	written, err := r.status.Update(ctx, pool, before, ready)
	if written {
		r.limiter.wrote(pool.Name, r.clock.Now(), size)
	}
	return err
}

// ready decides the condition Ready.
func (r *Reconciler) ready(pool *v2beta1.SpiderIPPool, leases []lease.Lease) status.Condition {
	if foreign := compile.ForeignAllocations(&pool.Status); foreign != "" {
		return status.Condition{Reason: compile.ReasonForeign, Message: fmt.Sprintf(foreignMessage, foreign, pool.Name)}
	}
	if pool.DeletionTimestamp != nil {
		return status.Condition{Reason: "Terminating", Message: "deletion is blocked by " + holders(leases)}
	}
	compiled, errs := compile.Pool(pool)
	if len(errs) > 0 {
		return status.Condition{Reason: "Invalid", Message: errs.ToAggregate().Error()}
	}
	var reasons []string
	for _, conflict := range r.index.Conflicts(compiled) {
		if status.IsOlder(conflict.Created, conflict.Pool, pool.CreationTimestamp.Time, pool.Name) {
			reasons = append(reasons, "spec."+conflict.Field+" "+conflict.Reason)
		}
	}
	outside := slices.DeleteFunc(slices.Clone(leases), func(l lease.Lease) bool {
		return compiled.IPs.Contains(l.Addr) && l.Addr != compiled.Gateway
	})
	switch {
	case len(reasons) > 0:
		return status.Condition{Reason: "Conflict", Message: strings.Join(reasons, "; ")}
	case len(outside) > 0:
		return status.Condition{Reason: "LeasesOutside", Message: fmt.Sprintf(
			"addresses in use are missing from spec.ips or equal spec.gateway: %s; add them to spec.ips and to a SpiderReservedIP until these pods are gone, or delete these pods", holders(outside))}
	case compiled.Disabled:
		return status.Condition{OK: true, Reason: "Disabled", Message: "spec.disable is true, so the pool hands out no address"}
	}
	return status.Condition{OK: true, Reason: "InUse", Message: "ready"}
}
