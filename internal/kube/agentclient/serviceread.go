package agentclient

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/service"
)

// readPage is the maximum number of objects in one response.
const readPage = 500

// EachService calls f for each Service of the cluster.
func (c *Client) EachService(ctx context.Context, f func(*corev1.Service)) error {
	return eachObject(ctx, func() *rest.Request { return c.core.Get().Resource(servicesKind) }, metav1.ListOptions{}, func(page *corev1.ServiceList) []corev1.Service { return page.Items }, f)
}

// EachEndpointSlice calls f for each EndpointSlice of a Service, or of all Services if the name is empty.
func (c *Client) EachEndpointSlice(ctx context.Context, of service.Name, f func(*discoveryv1.EndpointSlice)) error {
	request := func() *rest.Request { return c.discovery.Get().Resource(slicesKind) }
	var options metav1.ListOptions
	if of.Name != "" {
		request = func() *rest.Request { return c.discovery.Get().Namespace(of.Namespace).Resource(slicesKind) }
		options.LabelSelector = discoveryv1.LabelServiceName + "=" + of.Name
	}
	return eachObject(ctx, request, options, func(page *discoveryv1.EndpointSliceList) []discoveryv1.EndpointSlice { return page.Items }, f)
}

// eachObject reads a list page by page and calls f for each of its items.
func eachObject[T, L any, P interface {
	*L
	runtime.Object
	metav1.ListInterface
}](ctx context.Context, request func() *rest.Request, options metav1.ListOptions, items func(P) []T, f func(*T)) error {
	options.Limit = readPage
	for {
		page := P(new(L))
		r := request().VersionedParams(&options, foreignParameters)
		if err := r.Do(ctx).Into(page); err != nil {
			return fmt.Errorf("list %s: %w", r.URL().Path, err)
		}
		objects := items(page)
		for i := range objects {
			f(&objects[i])
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// ReadNode reads a Node.
func (c *Client) ReadNode(ctx context.Context, name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	if err := c.core.Get().Resource("nodes").Name(name).Do(ctx).Into(node); err != nil {
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return node, nil
}

// ReadPod reads a whole Pod.
func (c *Client) ReadPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := c.core.Get().Resource("pods").Namespace(namespace).Name(name).Do(ctx).Into(pod); err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}
