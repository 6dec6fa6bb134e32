// Package disabled says of the objects whose feature the installation has
// switched off that nothing comes of them, so that nobody waits for it.
package disabled

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// Subnets adds the reconciler of SpiderSubnets to the manager.
func Subnets(mgr ctrl.Manager) error {
	return setup(mgr, "subnet", "ipam.spiderSubnet.enable", &v2beta1.SpiderSubnet{}, func(o *v2beta1.SpiderSubnet, ready status.Condition) {
		ready.Set(&o.Status.Conditions, o.Generation)
	})
}

// MultusConfigs adds the reconciler of SpiderMultusConfigs to the manager.
func MultusConfigs(mgr ctrl.Manager) error {
	return setup(mgr, "multusconfig", "multus.enableMultusConfig", &v2beta1.SpiderMultusConfig{}, func(o *v2beta1.SpiderMultusConfig, ready status.Condition) {
		ready.Set(&o.Status.Conditions, o.Generation)
	})
}

// Coordinators adds the reconciler of SpiderCoordinators to the manager.
func Coordinators(mgr ctrl.Manager) error {
	return setup(mgr, "coordinator", "coordinator.enabled", &v2beta1.SpiderCoordinator{}, func(o *v2beta1.SpiderCoordinator, ready status.Condition) {
		o.Status.Phase, o.Status.Reason = v2beta1.CoordinatorNotReady, ready.Message
		ready.Set(&o.Status.Conditions, o.Generation)
	})
}

// setup adds a reconciler of the name of the one that it stands in for; value is
// the installation value that switches the feature on.
func setup[T client.Object](mgr ctrl.Manager, name, value string, kind T, set func(T, status.Condition)) error {
	ready := status.Condition{Reason: "SwitchedOff", Message: fmt.Sprintf("the installation value %s is false, so nothing comes of this object; set it to true, or delete the object", value)}
	return ctrl.NewControllerManagedBy(mgr).Named(name).For(kind).Complete(&reconciler[T]{
		client: mgr.GetClient(), recorder: mgr.GetEventRecorder("spiderpool-controller"), kind: kind, ready: ready, set: set,
	})
}

type reconciler[T client.Object] struct {
	client   client.Client
	recorder events.EventRecorder
	kind     T
	ready    status.Condition
	set      func(T, status.Condition)
}

// Reconcile writes the status of one object.
func (r *reconciler[T]) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := r.kind.DeepCopyObject().(T)
	if err := r.client.Get(ctx, request.NamespacedName, object); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := object.DeepCopyObject().(T)
	r.set(object, r.ready)
	if equality.Semantic.DeepEqual(before, object) {
		return ctrl.Result{}, nil
	}
	r.recorder.Eventf(object, nil, corev1.EventTypeWarning, r.ready.Reason, "Reconcile", "%s", r.ready.Message)
	if err := client.IgnoreNotFound(r.client.Status().Patch(ctx, object, client.MergeFrom(before))); err != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of %T %s: %w", object, request, err)
	}
	return ctrl.Result{}, nil
}
