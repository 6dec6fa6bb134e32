// Package startuptaint removes the taint names.TaintAgentNotReady from a node once the
// node's agent is ready and, if SpiderCloudNetworks select the node, it has a ready pool of
// each. A new node that the kubelet registers with this taint gets no pods before they can
// have addresses.
//
// The controller removes it, not the agent: an agent with the right to change its own
// node could change every node (docs/adr/0034-startup-taint.md).
package startuptaint

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
)

// Options describe the installation.
type Options struct {
	Namespace, DaemonSet string // of the agents
	Clouds               bool   // the controller makes pools for SpiderCloudNetworks
}

// Reconciler removes the taint, node by node.
type Reconciler struct {
	client  client.Client
	live    client.Reader
	options Options
	log     *slog.Logger
}

// New returns a reconciler. c has a cache of nodes and pods, live reads from the API server.
func New(c client.Client, live client.Reader, options Options, log *slog.Logger) *Reconciler {
	return &Reconciler{client: c, live: live, options: options, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "startuptaint" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	isTainted := predicate.NewPredicateFuncs(func(o client.Object) bool { return tainted(o.(*corev1.Node)) })
	isReadyAgent := predicate.NewPredicateFuncs(func(o client.Object) bool { return r.isReadyAgent(o.(*corev1.Pod)) })
	b := ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&corev1.Node{}, builder.WithPredicates(isTainted)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(nodeOf), builder.WithPredicates(isReadyAgent))
	if r.options.Clouds {
		isReadyPool := predicate.NewPredicateFuncs(func(o client.Object) bool { return ready(o.(*v2beta1.SpiderIPPool)) })
		b = b.Watches(&v2beta1.SpiderIPPool{}, handler.EnqueueRequestsFromMapFunc(nodeOfPool), builder.WithPredicates(isReadyPool)).
			Watches(&v2beta1.SpiderCloudNetwork{}, handler.EnqueueRequestsFromMapFunc(r.taintedNodes), builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	}
	return b.Complete(r)
}

func nodeOf(_ context.Context, pod client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: pod.(*corev1.Pod).Spec.NodeName}}}
}

// isReadyAgent reports whether the pod is an agent that answers. Only an administrator of
// the namespace can give a pod this owner.
func (r *Reconciler) isReadyAgent(pod *corev1.Pod) bool {
	if pod.Namespace != r.options.Namespace || pod.DeletionTimestamp != nil {
		return false
	}
	for _, owner := range pod.OwnerReferences {
		if owner.Kind == "DaemonSet" && owner.Name == r.options.DaemonSet && owner.Controller != nil && *owner.Controller {
			return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		}
	}
	return false
}

func ours(taint corev1.Taint) bool { return taint.Key == names.TaintAgentNotReady }

func tainted(node *corev1.Node) bool { return slices.ContainsFunc(node.Spec.Taints, ours) }

// Reconcile removes the taint if the node's agent and its pools are ready.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	node := &corev1.Node{}
	if err := r.client.Get(ctx, request.NamespacedName, node); err != nil || !tainted(node) {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	ready, err := r.agentReady(ctx, node.Name)
	if err != nil || !ready {
		return ctrl.Result{}, err // the pod queues the node again
	}
	if waits, err := r.waitsForPools(ctx, node); err != nil || waits {
		return ctrl.Result{}, err // a pool, a SpiderCloudNetwork or the node itself queues the node again
	}
	// The cache has a part of the node only, and the patch needs its version.
	if err := r.live.Get(ctx, request.NamespacedName, node); err != nil || !tainted(node) {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := node.DeepCopy()
	node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, ours)
	if err := r.client.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return ctrl.Result{}, fmt.Errorf("remove the taint %s from node %s: %w", names.TaintAgentNotReady, node.Name, err)
	}
	r.log.InfoContext(ctx, "removed the startup taint, because pods can have addresses", "node", node.Name, "taint", names.TaintAgentNotReady)
	return ctrl.Result{}, nil
}

// agentReady reports whether a ready agent runs on the node.
func (r *Reconciler) agentReady(ctx context.Context, node string) (bool, error) {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(r.options.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list the agents: %w", err)
	}
	return slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == node && r.isReadyAgent(&pod) }), nil
}
