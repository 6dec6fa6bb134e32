package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// demandDelay collects pods that arrive together. Those that arrive while the cloud answers are collected, too.
const demandDelay = 250 * time.Millisecond

// has reports whether a pool is one of the network.
func (in *input) has(pool string) bool {
	_, fixed := in.fixed[pool]
	return fixed || in.pools[pool] != nil
}

// readLeases reads the leases of all pools of the network in one pass. It returns the UIDs of the pods with an address in use.
func (r *Reconciler) readLeases(ctx context.Context, in *input) (holders map[string]bool, err error) {
	holders = map[string]bool{}
	addrs := map[string][]netip.Addr{}
	err = cached.Each(ctx, r.cache, &v2beta1.SpiderIPBlockList{}, func(block *v2beta1.SpiderIPBlock) {
		for k := range block.Spec.Leases {
			l := &block.Spec.Leases[k]
			if l.State != v2beta1.LeaseInUse && l.State != v2beta1.LeaseRetained {
				continue
			}
			if l.State == v2beta1.LeaseInUse {
				holders[l.PodUID] = true
			}
			if compiled, err := compile.LeaseOf(l); err == nil && in.has(l.Pool) {
				in.leases[l.Pool] = append(in.leases[l.Pool], compiled)
				addrs[l.Pool] = append(addrs[l.Pool], compiled.Addr)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list SpiderIPBlocks: %w", err)
	}
	for i := range in.existing {
		in.existing[i].Leased = inet.OfAddrs(addrs[in.existing[i].Name]...)
	}
	return holders, nil
}

// waiting counts, for each pool, the interfaces of pods on its node that have no addresses yet. A pod gets the addresses of
// all its interfaces together.
func (r *Reconciler) waiting(ctx context.Context, network *v2beta1.SpiderCloudNetwork, in *input) (map[string]int64, error) {
	holders, err := r.readLeases(ctx, in)
	if err != nil {
		return nil, err
	}
	members := map[string]bool{}
	for _, n := range in.nodes {
		members[n.node] = true
	}
	namespaces := map[string]bool{} // those that choose pools
	waiting := map[string]int64{}
	var failed error
	err = cached.Each(ctx, r.cache, &corev1.PodList{}, func(pod *corev1.Pod) {
		if !members[pod.Spec.NodeName] || !needsAddresses(pod) || pod.DeletionTimestamp != nil || holders[compile.PodUID(pod.UID, pod.Annotations)] || pool.ChoosesPools(pod.Annotations) {
			return
		}
		if chooses, err := r.namespaceChooses(ctx, namespaces, pod.Namespace); chooses || err != nil {
			failed = errors.Join(failed, err)
			return
		}
		interfaces, _ := pool.Interfaces(pod.Namespace, pod.Annotations, r.Networks) // Multus reports invalid annotations
		for _, at := range interfaces {
			for _, spec := range network.Spec.Interfaces {
				if at.Attachment.String() != spec.MultusName {
					continue
				}
				for _, version := range network.Spec.IPVersions {
					waiting[cloud.PoolName(network.Name, pod.Spec.NodeName, int(spec.Device), inet.Family(version))]++
				}
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return waiting, failed
}

// namespaceChooses reports whether the pods of a namespace use pools that its annotations name. It remembers the answer in known.
func (r *Reconciler) namespaceChooses(ctx context.Context, known map[string]bool, name string) (bool, error) {
	chooses, ok := known[name]
	if ok {
		return chooses, nil
	}
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, namespace); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("read namespace %s: %w", name, err)
	}
	known[name] = pool.NamespaceChoosesPools(namespace.Annotations)
	return known[name], nil
}

// needsAddresses reports whether the pod runs on a node, in a network of its own.
func needsAddresses(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && !pod.Spec.HostNetwork && !compile.HasEnded(pod)
}

// podChanges passes pods that begin or end to need addresses.
var podChanges = predicate.Funcs{
	CreateFunc: func(e event.CreateEvent) bool { return needsAddresses(e.Object.(*corev1.Pod)) },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return needsAddresses(e.ObjectOld.(*corev1.Pod)) != needsAddresses(e.ObjectNew.(*corev1.Pod))
	},
	DeleteFunc:  func(e event.DeleteEvent) bool { return needsAddresses(e.Object.(*corev1.Pod)) },
	GenericFunc: func(event.GenericEvent) bool { return false },
}

// demand queues the SpiderCloudNetworks of the mode Manage some time after a change of a pod. The queue keeps the earliest time.
func (r *Reconciler) demand() handler.EventHandler {
	queue := func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		var networks v2beta1.SpiderCloudNetworkList
		if err := r.client.List(ctx, &networks, client.UnsafeDisableDeepCopy); err != nil {
			r.log.ErrorContext(ctx, "cannot list the SpiderCloudNetworks of a pod", "err", err)
		}
		for i := range networks.Items {
			if manages(&networks.Items[i]) {
				q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&networks.Items[i])}, demandDelay)
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, q)
		},
		UpdateFunc: func(ctx context.Context, _ event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, q)
		},
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			queue(ctx, q)
		},
	}
}
