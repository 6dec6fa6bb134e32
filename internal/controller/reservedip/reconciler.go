// Package reservedip reports for each SpiderReservedIP whether its addresses are
// reserved. It repeats the checks of admission, because the webhook may have been
// unavailable when the object was written.
package reservedip

import (
	"context"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// Reconciler keeps the condition of SpiderReservedIPs.
type Reconciler struct {
	client client.Client
	status status.Writer
}

// New returns a reconciler; w writes the conditions.
func New(w status.Writer) *Reconciler { return &Reconciler{client: w.Client, status: w} }

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "reservedip" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named(r.Name()).For(&v2beta1.SpiderReservedIP{}).Complete(r)
}

// Reconcile writes the condition of one SpiderReservedIP.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	reserved := &v2beta1.SpiderReservedIP{}
	if err := r.client.Get(ctx, request.NamespacedName, reserved); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	ready := status.Condition{OK: true, Reason: "Reserved", Message: "no pool hands out these addresses"}
	if _, errs := compile.ReservedIP(reserved); len(errs) > 0 {
		ready = status.Condition{Reason: "Invalid", Message: errs.ToAggregate().Error()}
	}
	_, err := r.status.Update(ctx, reserved, reserved.DeepCopy(), ready)
	return ctrl.Result{}, err
}
