// Package subnet says of each SpiderSubnet whether pools can be cut from it, and
// how many addresses it has.
package subnet

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// Reconciler keeps the status of SpiderSubnets.
type Reconciler struct {
	client   client.Client
	recorder events.EventRecorder
}

// Setup adds the reconciler to the manager.
func Setup(mgr ctrl.Manager) error {
	r := &Reconciler{client: mgr.GetClient(), recorder: mgr.GetEventRecorder("spiderpool-controller")}
	// A subnet that goes, or changes, can end another one's conflict. There are few.
	all := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request {
		var list v2beta1.SpiderSubnetList
		if err := r.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "list SpiderSubnets")
			return nil
		}
		var requests []reconcile.Request
		for i := range list.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).Named("subnet").For(&v2beta1.SpiderSubnet{}).Watches(&v2beta1.SpiderSubnet{}, all).Complete(r)
}

// Reconcile writes the status of one SpiderSubnet.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	subnet := &v2beta1.SpiderSubnet{}
	if err := r.client.Get(ctx, request.NamespacedName, subnet); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := subnet.DeepCopy()
	compiled, errs := compile.Subnet(subnet)
	ready := status.Condition{OK: true, Reason: "Usable", Message: "pools can be cut from it"}
	if len(errs) > 0 {
		ready = status.Condition{Reason: "Invalid", Message: errs.ToAggregate().Error()}
	} else {
		subnet.Status.TotalIPCount = new(compiled.IPs.Minus(inet.Union(compiled.Exclude, inet.OfAddrs(compiled.Gateway))).Count())
		conflicts, err := poolindex.SubnetConflicts(ctx, r.client, subnet, func(other *v2beta1.SpiderSubnet) bool {
			return status.IsOlder(other.CreationTimestamp.Time, other.Name, subnet.CreationTimestamp.Time, subnet.Name)
		})
		if err != nil {
			return ctrl.Result{}, err
		}
		if len(conflicts) > 0 {
			ready = status.Condition{Reason: "Conflict", Message: conflicts.ToAggregate().Error()}
		}
	}
	becameUnready := ready.Set(&subnet.Status.Conditions, subnet.Generation) && !ready.OK
	if equality.Semantic.DeepEqual(before.Status, subnet.Status) {
		return ctrl.Result{}, nil
	}
	if becameUnready {
		r.recorder.Eventf(subnet, nil, corev1.EventTypeWarning, ready.Reason, "Reconcile", "%s", status.EventNote(ready.Message))
	}
	if err := client.IgnoreNotFound(r.client.Status().Patch(ctx, subnet, client.MergeFrom(before))); err != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of SpiderSubnet %s: %w", subnet.Name, err)
	}
	return ctrl.Result{}, nil
}
