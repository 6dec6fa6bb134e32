package nodeaddress

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// everything is the only request.
var everything = reconcile.Request{NamespacedName: client.ObjectKey{Name: "nodes"}}

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	soon := later{}
	r.cache = mgr.GetCache()
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		Watches(&corev1.Node{}, soon, builder.WithPredicates(nodeChanges)).
		Watches(&corev1.Pod{}, soon, builder.WithPredicates(podChanges)).
		Watches(&v2beta1.SpiderIPPool{}, soon, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v2beta1.SpiderReservedIP{}, soon, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v2beta1.SpiderIPBlock{}, soon).
		Complete(r)
}

// later queues the request after the delay. The queue keeps the earliest time.
type later struct{}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

var _ handler.EventHandler = later{}

func (later) Create(_ context.Context, _ event.CreateEvent, q queue)   { q.AddAfter(everything, delay) }
func (later) Update(_ context.Context, _ event.UpdateEvent, q queue)   { q.AddAfter(everything, delay) }
func (later) Delete(_ context.Context, _ event.DeleteEvent, q queue)   { q.AddAfter(everything, delay) }
func (later) Generic(_ context.Context, _ event.GenericEvent, q queue) { q.AddAfter(everything, delay) }

// nodeChanges passes changes of labels and of our resources: a kubelet sets them to 0 when it
// registers its node again.
var nodeChanges = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
		return !maps.Equal(before.Labels, after.Labels) ||
			!equality.Semantic.DeepEqual(compile.AddressResources(before.Status.Capacity), compile.AddressResources(after.Status.Capacity)) ||
			!equality.Semantic.DeepEqual(compile.AddressResources(before.Status.Allocatable), compile.AddressResources(after.Status.Allocatable))
	},
	DeleteFunc: func(event.DeleteEvent) bool { return false },
}

// podChanges passes pods with a request when the scheduler begins or ends to count them.
var podChanges = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return counted(e.Object) },
	UpdateFunc: func(e event.UpdateEvent) bool { return counted(e.ObjectOld) != counted(e.ObjectNew) },
	DeleteFunc: func(e event.DeleteEvent) bool { return counted(e.Object) },
}

func counted(o client.Object) bool { return claimed(o.(*corev1.Pod)) != nil }

// claimed returns what the scheduler counts for the pod on its node: nil without a node, and
// after the end of the pod.
func claimed(pod *corev1.Pod) corev1.ResourceList {
	if pod.Spec.NodeName == "" || compile.HasEnded(pod) {
		return nil
	}
	return compile.AddressRequests(&pod.Spec)
}

func quantity(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

func texts(list corev1.ResourceList) map[string]string {
	out := map[string]string{}
	for name, quantity := range list {
		out[string(name)] = quantity.String()
	}
	return out
}
