// Package takenaddress reserves the addresses that belong to a node, or to the
// gateway of another pool, although a pool lists them. An agent knows only its own
// node and its own pools; SpiderReservedIPs reach all agents.
//
// The SpiderReservedIPs spiderpool-taken-ipv4 and spiderpool-taken-ipv6 exist only
// while there are such addresses, so a cluster with disjoint pools has none.
package takenaddress

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
)

const (
	// namePrefix precedes the IP family, e.g. spiderpool-taken-ipv4.
	namePrefix = "spiderpool-taken-ipv"
	// delay collects changes of pools, because one pass compares all of them.
	delay = time.Second
	// maxOfNode bounds how many addresses a node can withhold from the pools.
	maxOfNode = 16
	// maxRanges is the limit of spec.ips of a SpiderReservedIP.
	maxRanges = 4096
)

// everything is the only request.
var everything = reconcile.Request{NamespacedName: client.ObjectKey{Name: "taken"}}

// Reconciler keeps the two SpiderReservedIPs.
type Reconciler struct {
	client client.Client
	index  *poolindex.Index
	log    *slog.Logger
}

// New returns a reconciler. c reads nodes and SpiderReservedIPs from a cache.
func New(c client.Client, index *poolindex.Index, log *slog.Logger) *Reconciler {
	return &Reconciler{client: c, index: index, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "takenaddress" }

// Register adds the reconciler to the manager. Call it before the index begins to watch.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	request := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{everything} })
	moved := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return !addressesOf(e.ObjectOld.(*corev1.Node)).Equal(addressesOf(e.ObjectNew.(*corev1.Node)))
	}}
	ours := predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetName() == nameOf(inet.IPv4) || o.GetName() == nameOf(inet.IPv6)
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		Watches(&corev1.Node{}, request, builder.WithPredicates(moved)).
		Watches(&v2beta1.SpiderReservedIP{}, request, builder.WithPredicates(ours)).
		WatchesRawSource(indexed(r.index)).
		Complete(r)
}

// indexed queues the request after a change of a pool.
func indexed(index *poolindex.Index) source.Source {
	var mu sync.Mutex
	var queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	index.Subscribe(func([]string) {
		mu.Lock()
		defer mu.Unlock()
		if queue != nil {
			queue.AddAfter(everything, delay)
		}
	})
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		mu.Lock()
		defer mu.Unlock()
		queue = q
		queue.Add(everything)
		return nil
	})
}

// Reconcile writes the SpiderReservedIPs that differ from the pools and nodes.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	if !r.index.Synced() {
		return ctrl.Result{RequeueAfter: delay}, nil
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	sets := make([]inet.Set, len(nodes.Items))
	for i := range nodes.Items {
		sets[i] = addressesOf(&nodes.Items[i])
	}
	taken := r.index.Taken(inet.Union(sets...))
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		if err := r.reserve(ctx, family, taken.And(inet.OfPrefix(family.Everything()))); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, nil
}

// reserve makes the SpiderReservedIP of a family hold the addresses.
func (r *Reconciler) reserve(ctx context.Context, family inet.Family, taken inet.Set) error {
	is := &v2beta1.SpiderReservedIP{}
	err := r.client.Get(ctx, client.ObjectKey{Name: nameOf(family)}, is)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read SpiderReservedIP %s: %w", nameOf(family), err)
	}
	want := taken.Strings()
	if len(want) > maxRanges {
		r.log.Warn("the pools list more addresses of nodes than a SpiderReservedIP can hold; exclude the nodes' addresses from the pools",
			"ranges", len(want), "reserved", maxRanges)
		want = want[:maxRanges]
	}
	exists := err == nil
	switch {
	case exists && slices.Equal(is.Spec.IPs, want), !exists && len(want) == 0:
		return nil
	case len(want) == 0:
		err = client.IgnoreNotFound(r.client.Delete(ctx, is))
	case exists:
		is = is.DeepCopy()
		is.Spec.IPs = want
		err = r.client.Update(ctx, is)
	default:
		err = r.client.Create(ctx, &v2beta1.SpiderReservedIP{
			ObjectMeta: metav1.ObjectMeta{Name: nameOf(family)},
			Spec:       v2beta1.SpiderReservedIPSpec{IPVersion: new(int64(family)), IPs: want},
		})
	}
	if err != nil {
		return fmt.Errorf("write SpiderReservedIP %s: %w", nameOf(family), err)
	}
	return nil
}

func nameOf(family inet.Family) string { return fmt.Sprint(namePrefix, int(family)) }

// addressesOf returns the node's addresses in its status, at most maxOfNode.
func addressesOf(node *corev1.Node) inet.Set {
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && len(addrs) < maxOfNode {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return inet.OfAddrs(addrs...)
}
