package agentclient

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
)

// Client sends requests to the API server. It reads our own kinds as whole objects
// and other kinds as metadata only, which is much smaller and encoded in protobuf.
// It has no cache and no client-side rate limit: the pods of the node bound the
// number of requests, and the server has priority and fairness.
type Client struct {
	spiderpool rest.Interface
	metadata   metadata.Interface
	core       rest.Interface // Services, Nodes, Pods and Namespaces, in protobuf
	discovery  rest.Interface // EndpointSlices, in protobuf
	networking rest.Interface // NetworkPolicies, in protobuf
	policies   rest.Interface // ClusterNetworkPolicies, in JSON
	multi      rest.Interface // MultiNetworkPolicies, in JSON
}

// NewClient returns a client of the API server in config. It sends no request.
func NewClient(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("create the HTTP client: %w", err)
	}
	own, err := ownClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	metadataClient, err := metadata.NewForConfigAndClient(metadata.ConfigFor(config), httpClient)
	if err != nil {
		return nil, fmt.Errorf("create the metadata client: %w", err)
	}
	core, err := foreignClient(config, httpClient, "/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	discovery, err := foreignClient(config, httpClient, "/apis", discoveryv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	networking, err := foreignClient(config, httpClient, "/apis", networkingv1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	policies, err := foreignClient(config, httpClient, "/apis", clusterPolicyVersion)
	if err != nil {
		return nil, err
	}
	multi, err := foreignClient(config, httpClient, "/apis", multipolicy.GroupVersion)
	if err != nil {
		return nil, err
	}
	return &Client{spiderpool: own, metadata: metadataClient, core: core, discovery: discovery, networking: networking, policies: policies, multi: multi}, nil
}

// ownClient returns a client of our API group only. The types of all other groups would
// cost the agent memory.
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
		return nil, fmt.Errorf("create the client of %s: %w", v2beta1.GroupVersion, err)
	}
	return client, nil
}

// clusterPolicyVersion is that of ClusterNetworkPolicies in sigs.k8s.io/network-policy-api v0.3.0.
var clusterPolicyVersion = schema.GroupVersion{Group: npv1beta1.GroupName, Version: "v1beta1"}

// foreignKinds are the kinds of Kubernetes that the agent reads whole, because the metadata does not tell enough. The
// types of their whole API groups would cost memory.
var foreignKinds = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{},
		&corev1.Pod{}, &corev1.PodList{}, &corev1.Namespace{}, &corev1.NamespaceList{})
	scheme.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	scheme.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	scheme.AddKnownTypes(clusterPolicyVersion, &npv1beta1.ClusterNetworkPolicy{}, &npv1beta1.ClusterNetworkPolicyList{})
	utilruntime.Must(multipolicy.AddToScheme(scheme))
	for _, group := range []schema.GroupVersion{
		corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, clusterPolicyVersion,
		v2beta1.GroupVersion, // for the parameters of a list
	} {
		metav1.AddToGroupVersion(scheme, group)
	}
	return scheme
}()

var foreignParameters = runtime.NewParameterCodec(foreignKinds)

// foreignClient returns a client of foreignKinds in one API group.
func foreignClient(config *rest.Config, httpClient *http.Client, path string, group schema.GroupVersion) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.APIPath = path
	config.GroupVersion = &group
	config.NegotiatedSerializer = serializer.NewCodecFactory(foreignKinds).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := rest.RESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("create the client of %s: %w", group, err)
	}
	return client, nil
}

// answer returns the body of a successful response. Otherwise the error has the API
// server's message, which Result.Raw would not decode.
func answer(result rest.Result) ([]byte, error) {
	if err := result.Error(); err != nil {
		return nil, err
	}
	return result.Raw()
}

// Resources that the agent watches or reads.
var (
	podResource       = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	nodeResource      = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	poolResource      = v2beta1.GroupVersion.WithResource("spiderippools")
	reservedResource  = v2beta1.GroupVersion.WithResource("spiderreservedips")
	blockResource     = v2beta1.GroupVersion.WithResource("spideripblocks")
	endpointResource  = v2beta1.GroupVersion.WithResource("spiderendpoints")

	definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// DefinitionVersions returns a text that changes with the custom resource definitions of the
// kinds that the agent writes; "" if one is missing or the agent may not read it.
func (c *Client) DefinitionVersions(ctx context.Context) (string, error) {
	var versions []string
	for _, resource := range []schema.GroupVersionResource{blockResource, endpointResource} {
		definition, err := c.metadata.Resource(definitionResource).Get(ctx, resource.GroupResource().String(), metav1.GetOptions{})
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("read the definition of %s: %w", resource.Resource, err)
		}
		versions = append(versions, string(definition.UID), definition.ResourceVersion)
	}
	return strings.Join(versions, " "), nil
}

// partialMetadata is an Accept header: respond with the metadata of the object only.
const partialMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// Coordinator reads a SpiderCoordinator. If there is none, it returns ipam.ErrNotFound.
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
