package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeaseState says what an address is kept for.
//
// +kubebuilder:validation:Enum=InUse;Retained;Released;Quarantined
type LeaseState string

const (
	// LeaseInUse: a pod's interface holds the address.
	LeaseInUse LeaseState = "InUse"
	// LeaseRetained: the address waits for its pod to come back (fixed addresses).
	LeaseRetained LeaseState = "Retained"
	// LeaseReleased: free, remembered so that addresses released last are reused last.
	LeaseReleased LeaseState = "Released"
	// LeaseQuarantined: a foreign host answered for the address.
	LeaseQuarantined LeaseState = "Quarantined"
)

// Lease is who holds an address.
type Lease struct {
	// IP is the address, in canonical form, inside the block.
	IP string `json:"ip"`

	// State says what the address is kept for.
	State LeaseState `json:"state"`

	// Pool is the SpiderIPPool that the address was taken from.
	// +optional
	Pool string `json:"pool,omitempty"`

	// Pod is "namespace/name" of the holder.
	// +optional
	Pod string `json:"pod,omitempty"`

	// PodUID is the UID of the holder.
	// +optional
	PodUID string `json:"podUID,omitempty"`

	// ContainerID is the CNI container ID (of the sandbox) of the holder.
	// +optional
	ContainerID string `json:"containerID,omitempty"`

	// Interface is the interface that has the address.
	// +optional
	Interface string `json:"interface,omitempty"`

	// Node is the node of the holder.
	// +optional
	Node string `json:"node,omitempty"`

	// FixedFor is who gets the address back after its release:
	// "Pod/namespace/name" for a pod of a StatefulSet,
	// "VirtualMachine/namespace/name" for a virtual machine of KubeVirt.
	// +optional
	FixedFor string `json:"fixedFor,omitempty"`

	// Since is when the state was entered.
	// +optional
	Since metav1.Time `json:"since,omitempty"`

	// Until ends a quarantine.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// MAC is the hardware address that answered for a quarantined address.
	// +optional
	MAC string `json:"mac,omitempty"`
}

// SpiderIPBlockSpec holds the leases of 16 aligned addresses.
type SpiderIPBlockSpec struct {
	// CIDR is the block: an IPv4 /28 or an IPv6 /124.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a block does not change its cidr"
	CIDR string `json:"cidr"`

	// Node is the node that created the block; it is preferred there. A hint, not a lock.
	// +optional
	Node string `json:"node,omitempty"`

	// Leases has at most one entry for an address.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Leases []Lease `json:"leases,omitempty"`
}

// SpiderIPBlock is the truth about who holds the 16 addresses that it is named
// after. It is written by Spiderpool only.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={spiderpool},path=spideripblocks,scope=Cluster,shortName=sib,singular=spideripblock
// +kubebuilder:printcolumn:name=CIDR,type=string,JSONPath=`.spec.cidr`,description="addresses"
// +kubebuilder:printcolumn:name=NODE,type=string,JSONPath=`.spec.node`,description="node that created it"
type SpiderIPBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SpiderIPBlockSpec `json:"spec"`
}

// SpiderIPBlockList is a list of SpiderIPBlocks.
//
// +kubebuilder:object:root=true
type SpiderIPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderIPBlock `json:"items"`
}
