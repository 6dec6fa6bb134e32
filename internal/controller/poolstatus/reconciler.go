// Package poolstatus keeps what belongs to a SpiderIPPool beside its specification:
// the label by which agents find it, its finalizer, and its status, which is a
// view of the leases in SpiderIPBlocks.
//
// A pool that is deleted stays until no lease names it, and says who holds them.
// The status of one pool is written when a burst of changes is over, at most once
// a second, and less often the longer its list of addresses is.
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

// workers reconcile pools at the same time; each is mostly waiting for a write.
const workers = 8

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
	// The index is told of pools by the same informers, but not before or after
	// the queue is: what it sees is queued when it has seen it.
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderIPPool{}).
		Watches(&v2beta1.SpiderIPBlock{}, r.poolsOfBlocks()).
		WatchesRawSource(seenBy(r.index)).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}

// seenBy queues the pools that a change of the index concerns.
func seenBy(index *poolindex.Index) source.Source {
	var mu sync.Mutex
	var queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	index.Subscribe(func(pools []string) {
		mu.Lock()
		defer mu.Unlock()
		if queue == nil {
			// Not the leader, or not yet: every pool is queued when it starts.
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

// poolsOfBlocks queues the pools whose leases a block has or had.
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
	// 1. A pool that is to go goes when nobody holds an address of it.
	var leases []lease.Lease
	if pool.DeletionTimestamp != nil {
		var err error
		if leases, err = r.leases(ctx, pool.Name); err != nil {
			return ctrl.Result{}, err
		}
		if len(leases) == 0 {
			return ctrl.Result{}, r.release(ctx, pool)
		}
	}
	// 2. What agents need of it is there, at once.
	if err := r.complete(ctx, pool); err != nil {
		return ctrl.Result{}, err
	}
	// 3. The view of its leases is written when its time has come.
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

// leases returns what is held of the pool, in the order of blocks.
func (r *Reconciler) leases(ctx context.Context, pool string) ([]lease.Lease, error) {
	held, err := blockindex.LeasesOfPool(ctx, r.client, pool)
	if err != nil {
		return nil, fmt.Errorf("read the leases of SpiderIPPool %s: %w", pool, err)
	}
	return held, nil
}

// release lets a pool that is being deleted go, unless the API server knows of a
// lease that the cache has not seen yet; the pool is queued again when it has.
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

// complete sets label, finalizer and IP version where admission did not.
func (r *Reconciler) complete(ctx context.Context, pool *v2beta1.SpiderIPPool) error {
	before := pool.DeepCopy()
	if !compile.CompletePool(pool) {
		return nil
	}
	// Lists are replaced whole by a merge patch, so the version must match.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, pool, patch); err != nil {
		return fmt.Errorf("complete SpiderIPPool %s: %w", pool.Name, err)
	}
	return nil
}

func (r *Reconciler) writeStatus(ctx context.Context, pool *v2beta1.SpiderIPPool, leases []lease.Lease) error {
	before := pool.DeepCopy()
	ready := r.ready(pool, leases)
	size := SetStatus(pool, r.index.Reserved(), leases)
	written, err := r.status.Update(ctx, pool, before, ready)
	if written {
		r.limiter.wrote(pool.Name, r.clock.Now(), size)
	}
	return err
}

// ready says whether the pool can be used as written.
func (r *Reconciler) ready(pool *v2beta1.SpiderIPPool, leases []lease.Lease) status.Condition {
	if pool.DeletionTimestamp != nil {
		return status.Condition{Reason: "Terminating", Message: "waits to be deleted for " + holders(leases)}
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
			"addresses in use are not in spec.ips, or are spec.gateway: %s; put them back into spec.ips and list them in spec.excludeIPs until those pods are gone, or delete those pods", holders(outside))}
	case compiled.Disabled:
		return status.Condition{OK: true, Reason: "Disabled", Message: "spec.disable is true: it hands out nothing"}
	}
	return status.Condition{OK: true, Reason: "InUse", Message: "it hands out addresses"}
}
