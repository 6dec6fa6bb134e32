package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderSubnetSpec says which addresses automatic pools are cut from.
type SpiderSubnetSpec struct {
	// IPVersion is 4 or 6; left out, it is the version of subnet.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the addresses in CIDR notation, without host bits.
	Subnet string `json:"subnet"`

	// IPs are addresses or ranges inside subnet.
	// +optional
	IPs []string `json:"ips,omitempty"`

	// ExcludeIPs are addresses or ranges that are never handed out.
	// +optional
	ExcludeIPs []string `json:"excludeIPs,omitempty"`

	// Gateway is the address of the default gateway, inside subnet.
	// +optional
	Gateway *string `json:"gateway,omitempty"`

	// Routes are added to pods that get an address from this subnet.
	// +optional
	Routes []Route `json:"routes,omitempty"`
}

// SpiderSubnetStatus is a view of the pools that were cut from the subnet.
type SpiderSubnetStatus struct {
	// ControlledIPPools is a JSON object: pool → {"ips":[…],"application":"…"}.
	// +optional
	ControlledIPPools *string `json:"controlledIPPools,omitempty"`

	// TotalIPCount is the number of addresses that pools may be given.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is the number of addresses that pools were given.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Conditions: Ready says whether the subnet can be used as written.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderSubnet is a set of addresses that pools are cut from.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidersubnets,scope=Cluster,shortName=ss,singular=spidersubnet
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=SUBNET,type=string,JSONPath=`.spec.subnet`,description="network of the addresses"
// +kubebuilder:printcolumn:name=ALLOCATED-IP-COUNT,type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses that pools were given"
// +kubebuilder:printcolumn:name=TOTAL-IP-COUNT,type=integer,JSONPath=`.status.totalIPCount`,description="addresses in all"
type SpiderSubnet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderSubnetSpec   `json:"spec,omitempty"`
	Status SpiderSubnetStatus `json:"status,omitempty"`
}

// SpiderSubnetList is a list of SpiderSubnets.
//
// +kubebuilder:object:root=true
type SpiderSubnetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderSubnet `json:"items"`
}
