// Package peergroup writes the addresses of the pods that network policies select to SpiderPeerGroups, so that agents
// enforce policies without watching all pods.
//
// Reconcile has one request. Each run takes the changes of pods, namespaces and policies since the last one, applies them
// to an index in memory, and writes the objects that differ. Changes within 100 ms are one write per object. A new
// leader takes over the objects of the former one, and writes only those that differ.
package peergroup

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

const (
	// batch is the time in which changes are collected.
	batch = 100 * time.Millisecond
	// unusedFor is how long a group without a policy stays. A changed policy often needs it again.
	unusedFor = 10 * time.Minute
	// retryDelay is the pause after a failed request.
	retryDelay = time.Second
	// refusedDelay is the pause before groups beyond a limit are tried again.
	refusedDelay = 10 * time.Minute
)

// everything is the only request.
var everything = reconcile.Request{NamespacedName: client.ObjectKey{Name: "groups"}}

// change names a changed object.
type change struct {
	kind objectKind
	key  client.ObjectKey
}

// objectKind is a kind of objects that groups depend on.
type objectKind uint8

const (
	namespaces objectKind = iota
	pods
	networkPolicies
	clusterPolicies
	multiPolicies
	peerGroups
	definitions
)

// Reconciler keeps the SpiderPeerGroups.
type Reconciler struct {
	client     client.Client
	live       client.Reader
	recorder   status.Recorder
	cache      cache.Cache
	mapper     meta.RESTMapper
	controller controller.Controller
	clock      clock.PassiveClock
	unusedFor  time.Duration
	log        *slog.Logger

	mu struct {
		sync.Mutex
		changes map[change]bool // nil until the index is being filled
	}
	// index is nil until all objects have been read. Only Reconcile uses the fields below.
	index    *index
	machines machines
	watched  map[objectKind]bool // optional kinds
	retryAt  time.Time           // of refused groups
	reported map[change]string   // the last event about a policy
}

// New returns a reconciler. live reads from the API server.
func New(w status.Writer, live client.Reader, log *slog.Logger) *Reconciler {
	return &Reconciler{
		client: w.Client, live: live, recorder: w.Recorder, clock: clock.RealClock{}, unusedFor: unusedFor, log: log,
		watched: map[objectKind]bool{}, reported: map[change]string{},
	}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "peergroup" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) (err error) {
	r.cache, r.mapper = mgr.GetCache(), mgr.GetRESTMapper()
	r.controller, err = ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		WatchesMetadata(&corev1.Namespace{}, r.note(namespaces), builder.WithPredicates(updated(sameLabels))).
		Watches(&corev1.Pod{}, r.note(pods), builder.WithPredicates(updated(samePod))).
		Watches(&v2beta1.SpiderEndpoint{}, r.note(pods), builder.WithPredicates(updated(sameEndpoint))).
		Watches(policyKinds[networkPolicies].object(), r.note(networkPolicies), builder.WithPredicates(updated(sameGeneration))).
		WatchesMetadata(&v2beta1.SpiderPeerGroup{}, r.note(peerGroups)).
		WatchesMetadata(emptyDefinition(), r.note(definitions), builder.WithPredicates(predicate.NewPredicateFuncs(isOptional))).
		Build(r)
	return err
}

// emptyDefinition is a CustomResourceDefinition to watch.
func emptyDefinition() *metav1.PartialObjectMetadata {
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	return definition
}

// updated drops the updates without an effect.
func updated(same func(before, after client.Object) bool) predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return !same(e.ObjectOld, e.ObjectNew) }}
}

func sameLabels(before, after client.Object) bool {
	return maps.Equal(before.GetLabels(), after.GetLabels())
}

func sameGeneration(before, after client.Object) bool {
	return before.GetGeneration() == after.GetGeneration() && before.GetUID() == after.GetUID() && maps.Equal(before.GetAnnotations(), after.GetAnnotations())
}

func samePod(before, after client.Object) bool {
	a, b := before.(*corev1.Pod), after.(*corev1.Pod)
	return a.UID == b.UID && a.Status.Phase == b.Status.Phase && sameLabels(a, b) && equality.Semantic.DeepEqual(a.Status.PodIPs, b.Status.PodIPs)
}

func sameEndpoint(before, after client.Object) bool {
	return equality.Semantic.DeepEqual(before.(*v2beta1.SpiderEndpoint).Status.Current, after.(*v2beta1.SpiderEndpoint).Status.Current)
}

// note queues the request after a change, and notes the object.
func (r *Reconciler) note(kind objectKind) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(q queue, o client.Object) {
		r.mu.Lock()
		if r.mu.changes != nil {
			r.mu.changes[change{kind, client.ObjectKeyFromObject(o)}] = true
		}
		r.mu.Unlock()
		q.AddAfter(everything, batch)
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(q, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(q, e.Object) },
	}
}

// take returns the changes since the last call.
func (r *Reconciler) take() map[change]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.mu.changes
	r.mu.changes = map[change]bool{}
	return taken
}

// Reconcile brings the SpiderPeerGroups up to date.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	changes := r.take()
	if r.index == nil {
		if err := r.load(ctx); err != nil {
			return ctrl.Result{}, err
		}
		changes = nil
	}
	now := r.clock.Now()
	failed := r.apply(ctx, changes)
	r.putBack(failed)
	if !r.retryAt.IsZero() && !now.Before(r.retryAt) {
		r.retryAt = time.Time{}
		if r.index.retry() {
			r.retryAt = now.Add(refusedDelay)
		}
	}
	next := r.index.expire(now.Add(-r.unusedFor))
	pending, err := r.watchOptional(ctx)
	if err != nil {
		r.log.Warn("cannot watch policies of an optional kind; will retry", "err", err)
	}
	if err := r.write(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("cannot write all SpiderPeerGroups; will retry", "err", err)
		pending = true
	}
	if pending || err != nil || len(failed) > 0 {
		return ctrl.Result{RequeueAfter: retryDelay}, nil
	}
	return ctrl.Result{RequeueAfter: r.pause(now, next)}, nil
}

// pause returns the time until there is work without a change, 0 for none.
func (r *Reconciler) pause(now, oldestUnused time.Time) (pause time.Duration) {
	if !oldestUnused.IsZero() {
		pause = max(oldestUnused.Add(r.unusedFor).Sub(now), batch)
	}
	if retry := r.retryAt.Sub(now); !r.retryAt.IsZero() && (pause == 0 || retry < pause) {
		pause = max(retry, batch)
	}
	return pause
}

// putBack notes changes again.
func (r *Reconciler) putBack(failed map[change]error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, err := range failed {
		r.log.Warn("cannot read a changed object; will retry", "object", c.key, "err", err)
		r.mu.changes[c] = true
	}
}

// apply applies changes to the index. It returns those that it cannot read.
func (r *Reconciler) apply(ctx context.Context, changes map[change]bool) map[change]error {
	failed := map[change]error{}
	for c := range changes {
		if err := r.applyOne(ctx, c); err != nil {
			failed[c] = err
		}
	}
	return failed
}

func (r *Reconciler) applyOne(ctx context.Context, c change) error {
	switch c.kind {
	case namespaces:
		return r.readNamespace(ctx, c.key)
	case pods:
		return r.readPod(ctx, c.key)
	case peerGroups:
		return r.checkObject(ctx, c.key.Name)
	case definitions:
		return nil // watchOptional follows
	}
	return r.readPolicy(ctx, c)
}

// load fills the index: first the objects of the former leader, so that members keep their places, and the policies last,
// so that their groups are complete at once.
func (r *Reconciler) load(ctx context.Context) error {
	r.index, r.machines = newIndex(defaultLimits), machines{}
	err := r.adopt(ctx)
	if err == nil {
		err = r.loadNamespaces(ctx)
	}
	if err == nil {
		err = r.loadPods(ctx)
	}
	if err == nil {
		err = r.loadPolicies(ctx, networkPolicies)
	}
	if err != nil {
		r.index = nil
		return fmt.Errorf("read the objects of network policies: %w", err)
	}
	return nil
}
