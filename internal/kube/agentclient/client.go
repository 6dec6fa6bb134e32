package agentclient

import (
	"context"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
)

// Client speaks to the API server the way a node's agent needs it: whole objects
// of our own kinds, and of everything else only the metadata, which comes in
// protobuf and in a fraction of the size. It has no cache and no client-side rate
// limit: what an agent sends is bounded by the pods of its node, and the server's
// priority and fairness does the rest.
type Client struct {
	spiderpool rest.Interface
	metadata   metadata.Interface
}

// NewClient returns a client for the server of the configuration.
func NewClient(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make an HTTP client: %w", err)
	}
	own, err := ownClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	metadataClient, err := metadata.NewForConfigAndClient(metadata.ConfigFor(config), httpClient)
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	return &Client{spiderpool: own, metadata: metadataClient}, nil
}

// ownClient is a client for the group of this product alone, so that an agent does
// not carry the types of all others.
func ownClient(config *rest.Config, httpClient *http.Client) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := v2beta1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register %s: %w", v2beta1.GroupVersion, err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config = rest.CopyConfig(config)
	config.APIPath = "/apis"
	config.GroupVersion = &v2beta1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeJSON
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", v2beta1.GroupVersion, err)
	}
	return client, nil
}

// answer returns the body of an answer. Where the API server refused, the error is
// what it said, which Result.Raw leaves undecoded.
func answer(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// Resources that an agent follows or reads.
var (
	podResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	nodeResource      = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	poolResource      = v2beta1.GroupVersion.WithResource("spiderippools")
	reservedResource  = v2beta1.GroupVersion.WithResource("spiderreservedips")
	blockResource     = v2beta1.GroupVersion.WithResource("spideripblocks")
)

// Accept headers that ask for the metadata of an object instead of the object.
const partialMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// Coordinator reads a SpiderCoordinator, or returns ipam.ErrNotFound.
func (c *Client) Coordinator(ctx context.Context, name string) (*v2beta1.SpiderCoordinator, error) {
	object := &v2beta1.SpiderCoordinator{}
	err := c.spiderpool.Get().Resource("spidercoordinators").Name(name).Do(ctx).Into(object)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("SpiderCoordinator %s: %w", name, ipam.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderCoordinator %s: %w", name, err)
	}
	return object, nil
}
