// Package disabled marks objects without effect because a Helm value disables their
// feature, so that no user waits for them.
package disabled

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// Reconciler keeps the condition of the objects of one kind.
type Reconciler struct {
	name   string
	kind   client.Object
	ready  status.Condition
	status status.Writer
}

// New returns a reconciler that stands in for the reconciler of that name. It
// reports on objects of the kind; helmValue is the Helm value that enables the feature.
func New(w status.Writer, name string, kind client.Object, helmValue string) *Reconciler {
	return &Reconciler{name: name, kind: kind, status: w, ready: status.Condition{
		Reason:  "SwitchedOff",
		Message: fmt.Sprintf("feature disabled by Helm value %s=false, so this object has no effect; set the value to true, or delete the object", helmValue),
	}}
}

// Name is the name of the controller in logs and metrics.
func (r *Reconciler) Name() string { return r.name }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named(r.name).For(r.kind).Complete(r)
}

// Reconcile writes the status of one object.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	object := r.kind.DeepCopyObject().(client.Object)
	if err := r.status.Client.Get(ctx, request.NamespacedName, object); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := object.DeepCopyObject().(client.Object)
	if coordinator, ok := object.(*v2beta1.SpiderCoordinator); ok {
		coordinator.Status.Phase, coordinator.Status.Reason = v2beta1.CoordinatorNotReady, r.ready.Message
	}
	if network, ok := object.(*v2beta1.SpiderCloudNetwork); ok {
		meta.RemoveStatusCondition(&network.Status.Conditions, status.ConditionDegraded) // it would fire an alert for ever
	}
	_, err := r.status.Update(ctx, object, before, r.ready)
	return ctrl.Result{}, err
}
