package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderIPPoolSpec lists the addresses of a pool and selects the pods that may use them.
type SpiderIPPoolSpec struct {
	AddressSpace `json:",inline"`

	// PodAffinity selects, by label, the pods that may use the pool.
	// +optional
	PodAffinity *metav1.LabelSelector `json:"podAffinity,omitempty"`

	// NamespaceAffinity selects, by label, the namespaces that may use the pool.
	// It is ignored if namespaceName is set.
	// +optional
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`

	// NamespaceName lists the namespaces that may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not a namespace name; copy the metadata.name of a namespace"`
	NamespaceName []string `json:"namespaceName,omitempty"`

	// NodeAffinity selects, by label, the nodes that may use the pool. It is ignored
	// if nodeName is set.
	// +optional
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`

	// NodeName lists the nodes that may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=5000
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not a node name; copy the metadata.name of a node"`
	NodeName []string `json:"nodeName,omitempty"`

	// MultusName lists the network attachments, as "namespace/name" or "name", whose
	// interfaces may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=317
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not the name of a network attachment; write 'namespace/name' or 'name'"`
	MultusName []string `json:"multusName,omitempty"`

	// Default makes the pool a candidate for pods without a pool of their own choice.
	// +kubebuilder:default=false
	// +optional
	Default *bool `json:"default,omitempty"`

	// Disable stops the pool from handing out addresses. Addresses in use stay in use.
	// +kubebuilder:default=false
	// +optional
	Disable *bool `json:"disable,omitempty"`
}

// CloudPlacement is a fixed address and the network interface that has it.
type CloudPlacement struct {
	// IP is the address in canonical form.
	// +kubebuilder:validation:MaxLength=45
	IP string `json:"ip"`

	// Interface is the interface that has had the address last, as the cloud has confirmed, e.g. "eni-0123456789abcdef0".
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Interface string `json:"interface,omitempty"`

	// PodUID is the UID of the pod that may use the address: the cloud has confirmed that the interface of the pod's node has it.
	// It is empty while the address moves. A pod starts when its UID is here.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	PodUID string `json:"podUID,omitempty"`

	// Message says why a pod still waits for the address, e.g. the refusal of the cloud.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// SpiderIPPoolStatus summarizes the pool's leases. The SpiderIPBlocks hold the leases themselves.
type SpiderIPPoolStatus struct {
	// AllocatedIPs is a JSON object with the addresses in use: address → {"pod":"namespace/name","podUid":"…"}.
	// +optional
	AllocatedIPs *string `json:"allocatedIPs,omitempty"`

	// TotalIPCount is the number of addresses that the pool can hand out, including those in use.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is the number of addresses in use.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// FreeIPCount is the number of addresses that the pool can hand out and that are neither in use nor retained.
	// Quarantined and withheld addresses count as free.
	// +kubebuilder:validation:Minimum=0
	// +optional
	FreeIPCount *int64 `json:"freeIPCount,omitempty"`

	// Placements say where the addresses of a pool of fixed addresses are (fixedAddresses of a SpiderCloudNetwork).
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=ip
	// +optional
	Placements []CloudPlacement `json:"placements,omitempty"`

	// Conditions has the condition Ready: True if the pool can be used as written.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderIPPool is a set of addresses of one subnet for the pods that it selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spiderippools,scope=Cluster,shortName=sp,singular=spiderippool
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=SUBNET,type=string,JSONPath=`.spec.subnet`,description="network of the addresses"
// +kubebuilder:printcolumn:name=ALLOCATED-IP-COUNT,type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses in use"
// +kubebuilder:printcolumn:name=TOTAL-IP-COUNT,type=integer,JSONPath=`.status.totalIPCount`,description="addresses in total"
// +kubebuilder:printcolumn:name=DEFAULT,type=boolean,JSONPath=`.spec.default`,description="candidate for pods without a pool of their own choice"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether it hands out addresses; the condition has the reason"
// +kubebuilder:printcolumn:name=FREE,type=integer,JSONPath=`.status.freeIPCount`,description="addresses without a holder"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
// +kubebuilder:printcolumn:name=DISABLE,type=boolean,JSONPath=`.spec.disable`,description="hands out nothing",priority=10
// +kubebuilder:printcolumn:name=NodeName,type=string,JSONPath=`.spec.nodeName`,description="nodes that may use it",priority=10
// +kubebuilder:printcolumn:name=MultusName,type=string,JSONPath=`.spec.multusName`,description="network attachments that may use it",priority=10
// +kubebuilder:printcolumn:name=APP-NAMESPACE,type=string,JSONPath=`.spec.podAffinity.matchLabels['ipam\.spidernet\.io/app-namespace']`,description="namespace of the application",priority=10
type SpiderIPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderIPPoolSpec   `json:"spec"`
	Status SpiderIPPoolStatus `json:"status,omitempty"`
}

// SpiderIPPoolList is a list of SpiderIPPools.
//
// +kubebuilder:object:root=true
type SpiderIPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderIPPool `json:"items"`
}
