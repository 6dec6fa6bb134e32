package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// viewPools is the maximum number of pools in one response. With another Spiderpool release, one pool can have a megabyte.
const viewPools = 1000

// AllPools returns all SpiderIPPools. The status of a pool lacks the addresses, unless another
// Spiderpool release wrote them.
func (c *Client) AllPools(ctx context.Context) ([]*v2beta1.SpiderIPPool, error) {
	items, err := allOwn[poolItem](ctx, c, poolResource.Resource, viewPools)
	pools := make([]*v2beta1.SpiderIPPool, len(items))
	for i, item := range items {
		pools[i] = item.pool()
	}
	return pools, err
}

// AllReserved returns all SpiderReservedIPs.
func (c *Client) AllReserved(ctx context.Context) ([]*v2beta1.SpiderReservedIP, error) {
	return allOwn[v2beta1.SpiderReservedIP](ctx, c, reservedResource.Resource, viewPage)
}

// AllBlocks returns all SpiderIPBlocks.
func (c *Client) AllBlocks(ctx context.Context) ([]*v2beta1.SpiderIPBlock, error) {
	return allOwn[v2beta1.SpiderIPBlock](ctx, c, blockResource.Resource, viewPage)
}

// AllEndpoints returns all SpiderEndpoints.
func (c *Client) AllEndpoints(ctx context.Context) ([]*v2beta1.SpiderEndpoint, error) {
	return allOwn[v2beta1.SpiderEndpoint](ctx, c, endpointResource.Resource, viewPage)
}

// ReadBlock reads the SpiderIPBlock with this first address. It returns nil if there is none.
func (c *Client) ReadBlock(ctx context.Context, base netip.Addr) (*v2beta1.SpiderIPBlock, error) {
	object, name := &v2beta1.SpiderIPBlock{}, compile.BlockName(base)
	err := c.spiderpool.Get().Resource(blockResource.Resource).Name(name).Do(ctx).Into(object)
	if apierrors.IsNotFound(err) && !IsMissingKind(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderIPBlock %s: %w", name, err)
	}
	return object, nil
}

// ReadEndpoint reads a SpiderEndpoint. It returns nil if there is none.
func (c *Client) ReadEndpoint(ctx context.Context, namespace, name string) (*v2beta1.SpiderEndpoint, error) {
	object := &v2beta1.SpiderEndpoint{}
	err := c.spiderpool.Get().Resource(endpointResource.Resource).Namespace(namespace).Name(name).Do(ctx).Into(object)
	if apierrors.IsNotFound(err) && !IsMissingKind(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderEndpoint %s/%s: %w", namespace, name, err)
	}
	return object, nil
}

// PodFacts returns the part of a pod that its agent sees.
func PodFacts(object *corev1.Pod) ipam.Pod {
	return podOf(&metav1.PartialObjectMetadata{ObjectMeta: object.ObjectMeta})
}

// NamespaceFacts returns the part of a namespace that the agents see.
func NamespaceFacts(object *corev1.Namespace) pool.NamespaceFacts {
	return namespaceOf(&metav1.PartialObjectMetadata{ObjectMeta: object.ObjectMeta})
}

// ReadConfigMap returns one key of a ConfigMap.
func (c *Client) ReadConfigMap(ctx context.Context, namespace, name, key string) (string, error) {
	raw, err := answer(c.spiderpool.Get().AbsPath("/api/v1/namespaces", namespace, "configmaps", name).Do(ctx))
	var object struct {
		Data map[string]string `json:"data"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &object)
	}
	if err != nil {
		return "", fmt.Errorf("read ConfigMap %s/%s: %w", namespace, name, err)
	}
	return object.Data[key], nil
}

// IsMissingKind reports whether the API server does not know the kind of the request, e.g.
// because its definition is not installed.
func IsMissingKind(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}
