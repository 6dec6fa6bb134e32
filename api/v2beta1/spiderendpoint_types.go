package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EndpointIP holds the addresses and routes of one interface of a pod.
type EndpointIP struct {
	// Interface is the name of the interface in the pod.
	Interface string `json:"interface"`

	// Network is the NetworkAttachmentDefinition of the interface, e.g. "shop/storage". It is
	// that of the pod's annotations when the interface was made: a later change of the
	// annotations has no effect on it. MultiNetworkPolicies select interfaces by it.
	// +kubebuilder:validation:MaxLength=317
	// +optional
	Network string `json:"network,omitempty"`

	// IPv4 is the address with its prefix length, e.g. "172.31.28.16/20".
	// +optional
	IPv4 *string `json:"ipv4,omitempty"`

	// IPv6 is the address with its prefix length, e.g. "fd00::10/64".
	// +optional
	IPv6 *string `json:"ipv6,omitempty"`

	// IPv4Pool is the SpiderIPPool of ipv4.
	// +optional
	IPv4Pool *string `json:"ipv4Pool,omitempty"`

	// IPv6Pool is the SpiderIPPool of ipv6.
	// +optional
	IPv6Pool *string `json:"ipv6Pool,omitempty"`

	// Vlan is always 0. It remains for clients of earlier versions.
	// +kubebuilder:default=0
	// +optional
	Vlan *int64 `json:"vlan,omitempty"`

	// IPv4Gateway is the default gateway of IPv4.
	// +optional
	IPv4Gateway *string `json:"ipv4Gateway,omitempty"`

	// IPv6Gateway is the default gateway of IPv6.
	// +optional
	IPv6Gateway *string `json:"ipv6Gateway,omitempty"`

	// CleanGateway is true if the interface has no default route.
	// +optional
	CleanGateway *bool `json:"cleanGateway,omitempty"`

	// Routes are the interface's routes other than the default route.
	// +optional
	Routes []Route `json:"routes,omitempty"`

	// MAC is the MAC address of the interface, if known.
	// +optional
	MAC *string `json:"mac,omitempty"`
}

// EndpointAllocation lists the addresses that a pod holds now.
type EndpointAllocation struct {
	// UID is the UID of the pod.
	UID string `json:"uid"`

	// Node is the pod's node.
	Node string `json:"node"`

	// IPs has one entry per interface.
	// +listType=atomic
	IPs []EndpointIP `json:"ips"`
}

// SpiderEndpointStatus is a view of the leases of a pod.
type SpiderEndpointStatus struct {
	// Current lists the addresses that the pod holds now.
	Current EndpointAllocation `json:"current"`

	// OwnerControllerType is the kind of the pod's top controller.
	OwnerControllerType string `json:"ownerControllerType"`

	// OwnerControllerName is the name of the pod's top controller.
	OwnerControllerName string `json:"ownerControllerName"`
}

// SpiderEndpoint shows the addresses of the pod with the same name and namespace
// (with KubeVirt, of the virtual machine). It is derived from the SpiderIPBlocks.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={spiderpool},path=spiderendpoints,scope=Namespaced,shortName=se,singular=spiderendpoint
// +kubebuilder:printcolumn:name=INTERFACE,type=string,JSONPath=`.status.current.ips[0].interface`,description="first interface"
// +kubebuilder:printcolumn:name=IPV4POOL,type=string,JSONPath=`.status.current.ips[0].ipv4Pool`,description="pool of its IPv4 address"
// +kubebuilder:printcolumn:name=IPV4,type=string,JSONPath=`.status.current.ips[0].ipv4`,description="IPv4 address"
// +kubebuilder:printcolumn:name=IPV6POOL,type=string,JSONPath=`.status.current.ips[0].ipv6Pool`,description="pool of its IPv6 address"
// +kubebuilder:printcolumn:name=IPV6,type=string,JSONPath=`.status.current.ips[0].ipv6`,description="IPv6 address"
// +kubebuilder:printcolumn:name=NODE,type=string,JSONPath=`.status.current.node`,description="node of the pod"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
type SpiderEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status SpiderEndpointStatus `json:"status,omitempty"`
}

// SpiderEndpointList is a list of SpiderEndpoints.
//
// +kubebuilder:object:root=true
type SpiderEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderEndpoint `json:"items"`
}
