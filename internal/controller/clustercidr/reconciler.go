// Package clustercidr finds the networks of Services and of overlay pods and writes
// them to the status of the SpiderCoordinator. Agents pass them to the coordinator
// plugin.
//
// The source of the networks depends on the cluster, e.g. Calico's IPPools or
// kubeadm's ConfigMap. The function decide chooses; the rest of the package reads the
// sources and watches them, so that the status follows every change.
package clustercidr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// recheck is the interval for reading the control plane's static pods, the only
// source without a watch.
const recheck = 10 * time.Minute

// Options name the objects that the reconciler reads and writes.
type Options struct {
	// Name is the name of the only SpiderCoordinator in use.
	Name string
	// CiliumConfigMap is the ConfigMap with Cilium's configuration.
	CiliumConfigMap client.ObjectKey
}

// Reconciler keeps the status of the SpiderCoordinator.
type Reconciler struct {
	client          client.Client
	live            client.Reader
	cache           cache.Cache
	mapper          meta.RESTMapper
	status          status.Writer
	name            string
	ciliumConfigMap client.ObjectKey
	controller      controller.Controller
	// One cache for each ConfigMap: the controller has no right to read others.
	kubeadmConfig, ciliumConfig client.Reader

	mu      sync.Mutex
	watched map[schema.GroupVersionKind]bool
}

// New returns a reconciler; w writes the status, live reads from the API server.
func New(w status.Writer, live client.Reader, options Options) *Reconciler {
	return &Reconciler{
		client: w.Client, live: live, status: w,
		name: options.Name, ciliumConfigMap: options.CiliumConfigMap, watched: map[schema.GroupVersionKind]bool{},
	}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "coordinator" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	r.cache, r.mapper = mgr.GetCache(), mgr.GetRESTMapper()
	kubeadmConfig, err := configMapCache(mgr, client.ObjectKey{Namespace: systemNamespace, Name: kubeadmConfigMap})
	if err != nil {
		return err
	}
	ciliumConfig, err := configMapCache(mgr, r.ciliumConfigMap)
	if err != nil {
		return err
	}
	r.kubeadmConfig, r.ciliumConfig = kubeadmConfig, ciliumConfig
	b := ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderCoordinator{}).
		WatchesRawSource(source.Kind[client.Object](kubeadmConfig, &corev1.ConfigMap{}, r.enqueue())).
		WatchesRawSource(source.Kind[client.Object](ciliumConfig, &corev1.ConfigMap{}, r.enqueue())).
		Watches(&corev1.Node{}, r.enqueue(), builder.WithPredicates(podCIDRsChanged())).
		WatchesMetadata(emptyDefinition(), r.enqueue(), builder.WithPredicates(predicate.NewPredicateFuncs(isOverlay)))
	if _, err := r.mapper.RESTMapping(schema.GroupKind{Group: networkingv1.GroupName, Kind: "ServiceCIDR"}, "v1"); err == nil {
		b = b.Watches(&networkingv1.ServiceCIDR{}, r.enqueue())
	} else if !meta.IsNoMatchError(err) {
		return fmt.Errorf("look up the kind ServiceCIDR: %w", err)
	}
	r.controller, err = b.Build(r)
	return err
}

// configMapCache returns a cache of one ConfigMap.
func configMapCache(mgr ctrl.Manager, key client.ObjectKey) (cache.Cache, error) {
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{
			key.Namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", key.Name)},
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("watch ConfigMap %s: %w", key, err)
	}
	return c, mgr.Add(everyReplica{c})
}

// everyReplica runs a cache on replicas that do not lead, too, so that the reconciler
// can fill its queue before its replica leads.
type everyReplica struct{ cache.Cache }

func (everyReplica) NeedLeaderElection() bool { return false }

func (r *Reconciler) enqueue() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: r.name}}}
	})
}

// isOverlay reports whether o is a CustomResourceDefinition of an overlay network.
func isOverlay(o client.Object) bool {
	return slices.Contains(slices.Collect(maps.Values(overlayDefinitions)), o.GetName())
}

// emptyDefinition is a CustomResourceDefinition to read or to watch.
func emptyDefinition() *metav1.PartialObjectMetadata {
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	return definition
}

// podCIDRsChanged passes changes of spec.podCIDRs and drops the heartbeats of nodes.
func podCIDRsChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
		return !equality.Semantic.DeepEqual(before.Spec.PodCIDRs, after.Spec.PodCIDRs)
	}}
}

// watches reports whether the cache has objects of the kind. It starts the watch if
// the cluster has the kind. An error means that this is unknown.
func (r *Reconciler) watches(ctx context.Context, kind schema.GroupVersionKind) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched[kind] {
		return true, nil
	}
	_, err := r.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return false, r.undefined(ctx, kind)
	}
	if err != nil {
		return false, fmt.Errorf("look up the kind %s: %w", kind.GroupKind(), err)
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	if err := r.controller.Watch(source.Kind[client.Object](r.cache, object, r.enqueue())); err != nil {
		return false, fmt.Errorf("watch %s: %w", kind.GroupKind(), err)
	}
	r.watched[kind] = true
	return true, nil
}

// undefined returns an error if the cluster has the definition of the kind. The API server
// serves a new kind about a second after the last event of its definition, so only a
// retry finds it.
func (r *Reconciler) undefined(ctx context.Context, kind schema.GroupVersionKind) error {
	definition := emptyDefinition()
	name := overlayDefinitions[kind]
	err := r.client.Get(ctx, client.ObjectKey{Name: name}, definition)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("look up CustomResourceDefinition %s: %w", name, err)
	}
	return fmt.Errorf("CustomResourceDefinition %s exists, but the API server does not serve %s %s; trying again", name, kind.GroupVersion(), kind.Kind)
}

// Reconcile writes the status of a SpiderCoordinator.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	coordinator := &v2beta1.SpiderCoordinator{}
	if err := r.client.Get(ctx, request.NamespacedName, coordinator); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if request.Name != r.name {
		return ctrl.Result{}, r.report(ctx, coordinator, findings{
			missing: fmt.Sprintf("only the SpiderCoordinator %q is used; change it instead and delete this one", r.name),
		})
	}
	kind := v2beta1.PodCIDRAuto
	if coordinator.Spec.PodCIDRType != nil {
		kind = *coordinator.Spec.PodCIDRType
	}
	found := decide(kind, r.collect(ctx).with(&coordinator.Spec))
	if _, errs := compile.Coordinator(field.NewPath("spec"), &coordinator.Spec, &v2beta1.SpiderCoordinatorStatus{}); len(errs) > 0 {
		found.invalid = errs.ToAggregate().Error()
	}
	// Report a source that cannot be read, and retry.
	if err := errors.Join(r.report(ctx, coordinator, found), found.err); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: recheck}, nil
}

// foundBefore reports whether the status has networks for the current specification.
func foundBefore(coordinator *v2beta1.SpiderCoordinator) bool {
	ready := meta.FindStatusCondition(coordinator.Status.Conditions, status.ConditionReady)
	return coordinator.Status.Phase == v2beta1.CoordinatorSynced && ready != nil && ready.ObservedGeneration == coordinator.Generation
}

func (r *Reconciler) report(ctx context.Context, coordinator *v2beta1.SpiderCoordinator, found findings) error {
	before := coordinator.DeepCopy()
	now := &coordinator.Status
	ready := status.Condition{OK: true, Reason: "Synced", Message: "source of overlayPodCIDR: " + found.source}
	switch {
	case found.missing == "":
		now.OverlayPodCIDR, now.ServiceCIDR = found.overlayPodCIDR, found.serviceCIDR
		now.Phase, now.Reason = v2beta1.CoordinatorSynced, ""
	case found.err != nil && foundBefore(coordinator):
		// Keep the last known networks: networks rarely change, and a failed read tells
		// nothing about them.
		ready = status.Condition{Reason: "Stale", Message: "using the last known networks: " + found.missing}
	default:
		now.OverlayPodCIDR, now.ServiceCIDR = found.overlayPodCIDR, found.serviceCIDR
		now.Phase, now.Reason = v2beta1.CoordinatorNotReady, found.missing
		ready = status.Condition{Reason: "NotReady", Message: found.missing}
	}
	if found.invalid != "" {
		ready = status.Condition{Reason: "Invalid", Message: found.invalid}
	}
	_, err := r.status.Update(ctx, coordinator, before, ready)
	return err
}
