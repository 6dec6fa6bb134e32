package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderSubnetSpec lists the addresses for automatic pools.
type SpiderSubnetSpec struct {
	AddressSpace `json:",inline"`
}

// SpiderSubnetStatus summarizes the subnet's pools.
type SpiderSubnetStatus struct {
	// ControlledIPPools is a JSON object: pool → {"ips":[…],"application":"…"}.
	// +optional
	ControlledIPPools *string `json:"controlledIPPools,omitempty"`

	// TotalIPCount is the number of addresses that the subnet can give to pools.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is the number of addresses in the subnet's pools.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Conditions has the condition Ready: True if the subnet can be used as written.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderSubnet is a set of addresses for automatic pools.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidersubnets,scope=Cluster,shortName=ss,singular=spidersubnet
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=SUBNET,type=string,JSONPath=`.spec.subnet`,description="network of the addresses"
// +kubebuilder:printcolumn:name=ALLOCATED-IP-COUNT,type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses in the subnet's pools"
// +kubebuilder:printcolumn:name=TOTAL-IP-COUNT,type=integer,JSONPath=`.status.totalIPCount`,description="addresses in total"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether it is usable; the condition has the reason"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
type SpiderSubnet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderSubnetSpec   `json:"spec"`
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
