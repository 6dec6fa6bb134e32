package agentclient

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// EachNamespace calls f for each Namespace of the cluster.
func (c *Client) EachNamespace(ctx context.Context, f func(*corev1.Namespace)) error {
	return eachPage(ctx, func() *rest.Request { return c.core.Get().Resource("namespaces") }, metav1.ListOptions{}, func(page *corev1.NamespaceList) {
		for i := range page.Items {
			f(&page.Items[i])
		}
	})
}

// EachPod calls f for each Pod of the cluster.
func (c *Client) EachPod(ctx context.Context, f func(*corev1.Pod)) error {
	return eachPage(ctx, func() *rest.Request { return c.core.Get().Resource("pods") }, metav1.ListOptions{}, func(page *corev1.PodList) {
		for i := range page.Items {
			f(&page.Items[i])
		}
	})
}

// EachNetworkPolicy calls f for each NetworkPolicy of the cluster.
func (c *Client) EachNetworkPolicy(ctx context.Context, f func(*networkingv1.NetworkPolicy)) error {
	return eachPage(ctx, func() *rest.Request { return c.networking.Get().Resource("networkpolicies") }, metav1.ListOptions{}, func(page *networkingv1.NetworkPolicyList) {
		for i := range page.Items {
			f(&page.Items[i])
		}
	})
}
