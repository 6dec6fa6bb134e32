// Package reservedip says of each SpiderReservedIP whether its addresses are
// reserved: admission can be away when an entry is written that names none.
package reservedip

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// Reconciler keeps the condition of SpiderReservedIPs.
type Reconciler struct {
	client   client.Client
	recorder events.EventRecorder
}

// Setup adds the reconciler to the manager.
func Setup(mgr ctrl.Manager) error {
	r := &Reconciler{client: mgr.GetClient(), recorder: mgr.GetEventRecorder("spiderpool-controller")}
	return ctrl.NewControllerManagedBy(mgr).Named("reservedip").For(&v2beta1.SpiderReservedIP{}).Complete(r)
}

// Reconcile writes the condition of one SpiderReservedIP.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	reserved := &v2beta1.SpiderReservedIP{}
	if err := r.client.Get(ctx, request.NamespacedName, reserved); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	ready := status.Condition{OK: true, Reason: "Reserved", Message: "no pool hands these addresses out"}
	if _, errs := compile.ReservedIP(reserved); len(errs) > 0 {
		ready = status.Condition{Reason: "Invalid", Message: errs.ToAggregate().Error()}
	}
	before := reserved.DeepCopy()
	becameUnready := ready.Set(&reserved.Status.Conditions, reserved.Generation) && !ready.OK
	if equality.Semantic.DeepEqual(before.Status, reserved.Status) {
		return ctrl.Result{}, nil
	}
	if becameUnready {
		r.recorder.Eventf(reserved, nil, corev1.EventTypeWarning, ready.Reason, "Reconcile", "%s", status.EventNote(ready.Message))
	}
	if err := client.IgnoreNotFound(r.client.Status().Patch(ctx, reserved, client.MergeFrom(before))); err != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of SpiderReservedIP %s: %w", reserved.Name, err)
	}
	return ctrl.Result{}, nil
}
