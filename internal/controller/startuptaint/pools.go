package startuptaint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// taintUninitialized is on a node until a cloud controller manager has set its provider ID
// and labels (k8s.io/cloud-provider/api, TaintExternalCloudProvider).
const taintUninitialized = "node.cloudprovider.kubernetes.io/uninitialized"

// waitsForPools reports whether the node is to get pools of a SpiderCloudNetwork, and has none
// that is ready.
func (r *Reconciler) waitsForPools(ctx context.Context, node *corev1.Node) (bool, error) {
	if !r.options.Clouds {
		return false, nil
	}
	var networks v2beta1.SpiderCloudNetworkList
	if err := r.client.List(ctx, &networks, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list SpiderCloudNetworks: %w", err)
	}
	networks.Items = slices.DeleteFunc(networks.Items, func(n v2beta1.SpiderCloudNetwork) bool { return n.DeletionTimestamp != nil })
	if len(networks.Items) == 0 {
		return false, nil
	}
	if slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintUninitialized }) {
		return true, nil
	}
	var pools v2beta1.SpiderIPPoolList
	if err := r.client.List(ctx, &pools, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list SpiderIPPools: %w", err)
	}
	for i := range networks.Items {
		network := &networks.Items[i]
		has := func(pool v2beta1.SpiderIPPool) bool {
			return ready(&pool) && metav1.IsControlledBy(&pool, network) && slices.Equal(pool.Spec.NodeName, []string{node.Name})
		}
		if selects(network, node) && !slices.ContainsFunc(pools.Items, has) {
			r.log.InfoContext(ctx, "the startup taint stays until the node has a ready pool", "node", node.Name, "network", network.Name)
			return true, nil
		}
	}
	return false, nil
}

// selects reports whether the network makes pools for the node. An invalid selector selects none.
func selects(network *v2beta1.SpiderCloudNetwork, node *corev1.Node) bool {
	if network.Spec.NodeSelector != nil {
		selector, err := metav1.LabelSelectorAsSelector(network.Spec.NodeSelector)
		return err == nil && selector.Matches(labels.Set(node.Labels))
	}
	id, region := node.Spec.ProviderID, network.Spec.Region
	switch network.Spec.Provider {
	case v2beta1.CloudAWS: // e.g. aws:///eu-central-1a/i-0123456789abcdef0, with the zone of the region
		return strings.HasPrefix(id, "aws:///"+region)
	case v2beta1.CloudAlibaba: // e.g. cn-hangzhou.i-bp1e2l6djkndyuli
		of, _, found := strings.Cut(strings.TrimPrefix(id, "alicloud://"), ".")
		return found && (of == region || region == "")
	}
	return id != ""
}

// ready reports whether pods may get addresses of the pool.
func ready(pool *v2beta1.SpiderIPPool) bool {
	return pool.DeletionTimestamp == nil && !ptr.Deref(pool.Spec.Disable, false) && meta.IsStatusConditionTrue(pool.Status.Conditions, status.ConditionReady)
}

func nodeOfPool(_ context.Context, pool client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, node := range pool.(*v2beta1.SpiderIPPool).Spec.NodeName {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKey{Name: node}})
	}
	return requests
}

// taintedNodes queues all nodes with the taint, after a change of a SpiderCloudNetwork.
func (r *Reconciler) taintedNodes(ctx context.Context, network client.Object) []reconcile.Request {
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		r.log.ErrorContext(ctx, "cannot list the nodes of a SpiderCloudNetwork", "network", network.GetName(), "err", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range nodes.Items {
		if tainted(&nodes.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&nodes.Items[i])})
		}
	}
	return requests
}
