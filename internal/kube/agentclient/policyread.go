package agentclient

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// EachNamespace calls f for each Namespace of the cluster.
func (c *Client) EachNamespace(ctx context.Context, f func(*corev1.Namespace)) error {
	return eachObject(ctx, func() *rest.Request { return c.core.Get().Resource("namespaces") }, metav1.ListOptions{}, func(page *corev1.NamespaceList) []corev1.Namespace { return page.Items }, f)
}

// EachPod calls f for each Pod of the cluster.
func (c *Client) EachPod(ctx context.Context, f func(*corev1.Pod)) error {
	return eachObject(ctx, func() *rest.Request { return c.core.Get().Resource("pods") }, metav1.ListOptions{}, func(page *corev1.PodList) []corev1.Pod { return page.Items }, f)
}

// EachNetworkPolicy calls f for each NetworkPolicy of the cluster.
func (c *Client) EachNetworkPolicy(ctx context.Context, f func(*networkingv1.NetworkPolicy)) error {
	return eachObject(ctx, func() *rest.Request { return c.networking.Get().Resource("networkpolicies") }, metav1.ListOptions{}, func(page *networkingv1.NetworkPolicyList) []networkingv1.NetworkPolicy { return page.Items }, f)
}

// EachClusterNetworkPolicy calls f for each ClusterNetworkPolicy. A cluster without the definition of this kind has none.
func (c *Client) EachClusterNetworkPolicy(ctx context.Context, f func(*npv1beta1.ClusterNetworkPolicy)) error {
	request := func() *rest.Request { return c.policies.Get().Resource("clusternetworkpolicies") }
	err := eachObject(ctx, request, metav1.ListOptions{}, func(page *npv1beta1.ClusterNetworkPolicyList) []npv1beta1.ClusterNetworkPolicy { return page.Items }, f)
	return ignoreUndefined(err)
}

// EachMultiNetworkPolicy calls f for each MultiNetworkPolicy. A cluster without the definition of this kind has none.
func (c *Client) EachMultiNetworkPolicy(ctx context.Context, f func(*multipolicy.MultiNetworkPolicy)) error {
	request := func() *rest.Request { return c.multi.Get().Resource("multi-networkpolicies") }
	err := eachObject(ctx, request, metav1.ListOptions{}, func(page *multipolicy.MultiNetworkPolicyList) []multipolicy.MultiNetworkPolicy { return page.Items }, f)
	return ignoreUndefined(err)
}

// ignoreUndefined ignores the error of a list of an undefined kind.
func ignoreUndefined(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
