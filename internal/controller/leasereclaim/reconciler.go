// Package leasereclaim reclaims addresses out of reach of every agent: addresses of
// pods on deleted or out-of-service nodes, and retained addresses with an owner that
// does not come back. On live nodes the agents reclaim (package ipam),
// because only they can ask the container runtime for the proof.
//
// Package reclaim decides; this package observes the facts. It does so twice: first
// in the caches, to find out whether there is anything to do, and then at the API
// server, because a cache may be older than the lease. It also deletes empty blocks.
package leasereclaim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// defaultIdle is how long all addresses of a block must be unused before the block is
// deleted. Released addresses are handed out last while their release is remembered;
// defaultIdle is longer than that.
const defaultIdle = 15 * time.Minute

// Observer counts reclaims for metrics (observe.Reclaims).
type Observer interface {
	// Reclaimed counts an attempt to reclaim an address; err is nil if it succeeded.
	Reclaimed(reason reclaim.Reason, err error)
}

// Options configure the reconciler.
type Options struct {
	Policy reclaim.Policy
	// Interval is how often a retained address is checked.
	Interval time.Duration
	// Idle is how long all addresses of a block must be unused before the block is
	// deleted; 0 means defaultIdle.
	Idle     time.Duration
	Observer Observer
}

// Reconciler reclaims addresses, block by block.
type Reconciler struct {
	client   client.Client
	cached   facts
	live     facts
	recorder status.Recorder
	clock    clock.PassiveClock
	log      *slog.Logger
	options  Options
	observed observations
}

// New returns a reconciler. The client of w must have a cache with the indexes of
// blockindex.IndexBlocksByHolder; live reads from the API server.
func New(w status.Writer, live client.Reader, options Options, log *slog.Logger) *Reconciler {
	options.Idle = cmp.Or(options.Idle, defaultIdle)
	return &Reconciler{
		client: w.Client, cached: cachedFacts(w.Client), live: liveFacts(live),
		recorder: w.Recorder, clock: clock.RealClock{}, log: log, options: options,
	}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "reclaim" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderIPBlock{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.blocksOfNode), builder.WithPredicates(nodeLost())).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.blocksOfPod), builder.WithPredicates(podEnded())).
		Watches(&appsv1.StatefulSet{}, handler.EnqueueRequestsFromMapFunc(r.blocksOfStatefulSet), builder.WithPredicates(fewerReplicas())).
		Complete(r)
}

// nodeLost passes deleted and out-of-service nodes.
func nodeLost() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool { return nodeOf(e.ObjectNew.(*corev1.Node)).OutOfService },
	}
}

// podEnded passes deleted, succeeded and failed pods.
func podEnded() predicate.Predicate {
	finished := func(o client.Object) bool { return compile.HasEnded(o.(*corev1.Pod)) }
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool { return finished(e.ObjectNew) && !finished(e.ObjectOld) },
	}
}

// fewerReplicas passes deleted and scaled-down StatefulSets.
func fewerReplicas() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			_, before := ordinals(e.ObjectOld.(*appsv1.StatefulSet))
			_, after := ordinals(e.ObjectNew.(*appsv1.StatefulSet))
			return after < before
		},
	}
}

func (r *Reconciler) blocksOfNode(ctx context.Context, node client.Object) []reconcile.Request {
	blocks, err := blockindex.BlocksOfNode(ctx, r.client, node.GetName())
	if err != nil {
		r.log.ErrorContext(ctx, "cannot find the addresses of a lost node", "node", node.GetName(), "err", err)
	}
	return requests(blocks)
}

func (r *Reconciler) blocksOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	blocks, err := blockindex.BlocksOfHolder(ctx, r.client, lease.PodKey(client.ObjectKeyFromObject(pod)))
	if err != nil {
		r.log.ErrorContext(ctx, "cannot find the addresses of an ended pod", "pod", client.ObjectKeyFromObject(pod).String(), "err", err)
	}
	return requests(blocks)
}

// blocksOfStatefulSet returns the blocks with addresses fixed for its pods.
func (r *Reconciler) blocksOfStatefulSet(ctx context.Context, set client.Object) []reconcile.Request {
	var list v2beta1.SpiderIPBlockList
	if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		r.log.ErrorContext(ctx, "cannot find the addresses of a StatefulSet", "statefulset", client.ObjectKeyFromObject(set).String(), "err", err)
		return nil
	}
	var found []v2beta1.SpiderIPBlock
	for i := range list.Items {
		for _, l := range list.Items[i].Spec.Leases {
			owner := lease.ParseOwner(l.FixedFor)
			if name, _, ok := owner.StatefulSet(); ok && name == set.GetName() && owner.Namespace == set.GetNamespace() {
				found = append(found, list.Items[i])
				break
			}
		}
	}
	return requests(found)
}

func requests(blocks []v2beta1.SpiderIPBlock) []reconcile.Request {
	var out []reconcile.Request
	for i := range blocks {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&blocks[i])})
	}
	return out
}

// Reconcile reclaims the provably unused addresses of one block.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := &v2beta1.SpiderIPBlock{}
	if err := r.client.Get(ctx, request.NamespacedName, object); err != nil {
		if apierrors.IsNotFound(err) {
			r.observed.forget(request.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	block, err := compile.Block(object)
	if err != nil {
		return ctrl.Result{}, reconcile.TerminalError(err)
	}
	now := r.clock.Now()
	cached := once(r.cached.of(ctx))
	seen := r.observed.look(request.Name, block, cached, now)
	// 1. Delete an empty block.
	if block.Removable(seen.leases, now, r.options.Idle) {
		return ctrl.Result{}, r.remove(ctx, object)
	}
	asked := releaseAsked(object)
	// 2. Stop if the caches show nothing to reclaim, and no user asks for a release.
	if _, changes := reclaim.Sweep(block, seen.complete(cached, now), r.options.Policy, now); len(changes) == 0 && asked == nil {
		return ctrl.Result{RequeueAfter: r.next(ctx, block, seen, now)}, nil
	}
	// 3. Judge again by the API server, and write the block.
	facts := once(asked.addTo(seen.complete(r.live.of(ctx), now)))
	swept, changes := reclaim.Sweep(block, facts, r.options.Policy, now)
	if len(changes) == 0 && asked == nil {
		return ctrl.Result{RequeueAfter: r.next(ctx, block, seen, now)}, nil
	}
	err = client.IgnoreNotFound(r.client.Update(ctx, compile.BlockObject(swept))) // without the annotation that asks
	if apierrors.IsConflict(err) {
		// An agent wrote the block; the watch queues it again.
		return ctrl.Result{}, nil
	}
	for _, change := range changes {
		r.options.Observer.Reclaimed(change.Reason, err)
		if err == nil {
			r.announce(ctx, change)
		}
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("reclaim addresses of SpiderIPBlock %s: %w", object.Name, err)
	}
	if because := asked.refusal(block, changes, facts, r.options.Policy); because != "" {
		r.log.InfoContext(ctx, "refused the release of an address", "block", object.Name, "because", because)
		r.recorder.Record(object, asked.pod(block), observe.ReleaseRefused(because))
	}
	return ctrl.Result{}, nil
}

// next returns when to judge the block again without an event; 0 means never.
func (r *Reconciler) next(ctx context.Context, block lease.Block, seen observed, now time.Time) time.Duration {
	next := time.Duration(0)
	within := func(d time.Duration) {
		if d = max(d, time.Second); next == 0 || d < next {
			next = d
		}
	}
	lost := func(name string) bool {
		node := r.cached.node(ctx, name)
		return node.Presence == reclaim.Gone || node.OutOfService
	}
	// On a lost node, a pod may lose its right to the address without an event.
	if slices.ContainsFunc(block.Former, func(f lease.Former) bool { return lost(f.Node) }) {
		within(r.options.Interval)
	}
	for _, l := range block.Leases {
		switch l.State {
		case lease.InUse:
			if !lost(l.Node) {
				break // the loss of the node queues the block
			}
			within(r.options.Interval)
			if young := r.options.Policy.MinAge - seen.leases.Age(l, now); young > 0 {
				within(young)
			}
		case lease.Retained:
			within(r.options.Interval)
		case lease.Released:
			within(r.options.Idle - seen.leases.Age(l, now))
		case lease.Quarantined:
			within(lease.MaxQuarantine + r.options.Idle - seen.leases.Age(l, now))
		}
	}
	return next
}

// remove deletes a block unless it changed since it was read.
func (r *Reconciler) remove(ctx context.Context, object *v2beta1.SpiderIPBlock) error {
	err := r.client.Delete(ctx, object, client.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("delete the empty SpiderIPBlock %s: %w", object.Name, err)
}

// announce logs a reclaimed address with the reason, and records an event about the
// former pod.
func (r *Reconciler) announce(ctx context.Context, change reclaim.Change) {
	l := change.Lease
	r.log.InfoContext(ctx, "reclaimed an address", "ip", l.Addr, "pool", l.Pool, "pod", l.Pod, "node", l.Node,
		"container", l.ContainerID, "reason", change.Reason, "because", change.Message)
	r.recorder.Record(podOf(l), nil, observe.ReclaimedIP(change))
}

func podOf(l lease.Lease) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: l.Pod.Namespace, Name: l.Pod.Name, UID: types.UID(l.PodUID)}
}

// ordinals returns the ordinals of a StatefulSet's pods as the range [first, end).
func ordinals(set *appsv1.StatefulSet) (first, end int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	replicas := 1
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	return first, first + replicas
}
