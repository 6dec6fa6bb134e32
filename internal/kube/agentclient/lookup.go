package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Lookup reads one path of the API server as JSON, e.g. "/apis/apps/v1/namespaces/kube-system/deployments/web".
// query has pairs of names and values. It returns false if there is no such object, or no such kind. Use it for
// kinds that a program reads once: into may have only the fields of interest.
func (c *Client) Lookup(ctx context.Context, into any, at string, query ...string) (bool, error) {
	raw, err := answer(c.get(at, query).Do(ctx))
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path.Clean(at), err)
	}
	return true, nil
}

// get returns a request for a path. query has pairs of names and values.
func (c *Client) get(at string, query []string) *rest.Request {
	request := c.spiderpool.Get().AbsPath(at)
	for i := 1; i < len(query); i += 2 {
		request.Param(query[i-1], query[i])
	}
	return request
}

// EachNode calls f for each Node of the cluster.
func (c *Client) EachNode(ctx context.Context, f func(*corev1.Node)) error {
	return eachObject(ctx, func() *rest.Request { return c.core.Get().Resource("nodes") }, metav1.ListOptions{}, func(page *corev1.NodeList) []corev1.Node { return page.Items }, f)
}

// EachPodOf calls f for each Pod that the options select in a namespace, or in all if it is empty.
func (c *Client) EachPodOf(ctx context.Context, namespace string, options metav1.ListOptions, f func(*corev1.Pod)) error {
	request := func() *rest.Request {
		return c.core.Get().NamespaceIfScoped(namespace, namespace != "").Resource("pods")
	}
	return eachObject(ctx, request, options, func(page *corev1.PodList) []corev1.Pod { return page.Items }, f)
}
