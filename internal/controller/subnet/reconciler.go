// Package subnet reports for each SpiderSubnet whether automatic pools can use it,
// and how many addresses it has.
package subnet

import (
	"context"

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
	client client.Client
	status status.Writer
}

// New returns a reconciler; w writes the statuses.
func New(w status.Writer) *Reconciler { return &Reconciler{client: w.Client, status: w} }

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "subnet" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	// A change of one subnet can end the conflict of another, so all are queued. A
	// cluster has few of them.
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
	return ctrl.NewControllerManagedBy(mgr).Named(r.Name()).For(&v2beta1.SpiderSubnet{}).Watches(&v2beta1.SpiderSubnet{}, all).Complete(r)
}

// Reconcile writes the status of one SpiderSubnet.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	subnet := &v2beta1.SpiderSubnet{}
	if err := r.client.Get(ctx, request.NamespacedName, subnet); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := subnet.DeepCopy()
	compiled, errs := compile.Subnet(subnet)
	ready := status.Condition{OK: true, Reason: "Usable", Message: "available for automatic pools"}
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
	_, err := r.status.Update(ctx, subnet, before, ready)
	return ctrl.Result{}, err
}
