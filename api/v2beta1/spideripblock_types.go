package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeaseState tells whether an address is in use, reserved or free.
//
// +kubebuilder:validation:Enum=InUse;Retained;Released;Quarantined;Withheld
type LeaseState string

const (
	// LeaseInUse: a pod's interface holds the address.
	LeaseInUse LeaseState = "InUse"
	// LeaseRetained: the address is reserved for its owner (see Lease.FixedFor) until the owner comes back.
	LeaseRetained LeaseState = "Retained"
	// LeaseReleased: the address is free. The lease stays, so that the address released last is reused last.
	LeaseReleased LeaseState = "Released"
	// LeaseQuarantined: a foreign host answered for the address, so no pod gets it for a while.
	LeaseQuarantined LeaseState = "Quarantined"
	// LeaseWithheld: the controller returns the address to the cloud, so no pod gets it.
	LeaseWithheld LeaseState = "Withheld"
)

// Lease records the holder of one address.
//
// +kubebuilder:validation:XValidation:rule="has(self.withheldBy) == (self.state == 'Withheld')",message="withheldBy must be set if state is Withheld, and only then"
type Lease struct {
	// IP is the address in canonical form. It lies inside the block.
	// +kubebuilder:validation:MaxLength=45
	IP string `json:"ip"`

	// State is InUse (a pod's interface holds the address), Retained (reserved for
	// its owner), Released (free), Quarantined (a foreign host answered for it) or
	// Withheld (the controller returns it to the cloud).
	State LeaseState `json:"state"`

	// Pool is the SpiderIPPool of the address.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pool string `json:"pool,omitempty"`

	// Pod is the holder, as "namespace/name".
	// +kubebuilder:validation:MaxLength=317
	// +optional
	Pod string `json:"pod,omitempty"`

	// PodUID is the UID of the holder.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	PodUID string `json:"podUID,omitempty"`

	// ContainerID is the holder's CNI container ID, which is the ID of its sandbox.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	ContainerID string `json:"containerID,omitempty"`

	// Interface is the holder's interface, e.g. "eth0".
	// +kubebuilder:validation:MaxLength=15
	// +optional
	Interface string `json:"interface,omitempty"`

	// Node is the node of the holder.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Node string `json:"node,omitempty"`

	// FixedFor is the owner of a fixed address, which gets it back after a release:
	// "Pod/namespace/name" for a pod of a StatefulSet,
	// "VirtualMachine/namespace/name" for a KubeVirt virtual machine.
	// +kubebuilder:validation:MaxLength=340
	// +optional
	FixedFor string `json:"fixedFor,omitempty"`

	// Since is the time of the last change of state.
	// +optional
	Since metav1.Time `json:"since,omitempty"`

	// Until is the end of a quarantine by the clock of Since. Each agent counts the time
	// between both, at most one hour, from its own first look at the lease.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// MAC is the MAC address that answered for a quarantined address.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	MAC string `json:"mac,omitempty"`

	// WithheldBy is the SpiderCloudNetwork that withholds the address.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	WithheldBy string `json:"withheldBy,omitempty"`
}

// FormerSandbox is a sandbox that lost its lease to a successor and may still use the
// address, e.g. on a node that is cut off from the API server.
type FormerSandbox struct {
	// IP is the address in canonical form. It lies inside the block.
	// +kubebuilder:validation:MaxLength=45
	IP string `json:"ip"`

	// ContainerID is the CNI container ID of the sandbox.
	// +kubebuilder:validation:MaxLength=128
	ContainerID string `json:"containerID"`

	// Interface is the interface of the sandbox, e.g. "eth0".
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface"`

	// Pod is the pod of the sandbox, as "namespace/name".
	// +kubebuilder:validation:MaxLength=317
	// +optional
	Pod string `json:"pod,omitempty"`

	// PodUID is the UID of that pod.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	PodUID string `json:"podUID,omitempty"`

	// Node is the node of the sandbox.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Node string `json:"node,omitempty"`

	// FixedFor is the owner of the address at that time, if it was fixed.
	// +kubebuilder:validation:MaxLength=340
	// +optional
	FixedFor string `json:"fixedFor,omitempty"`
}

// SpiderIPBlockSpec holds the leases of 16 aligned addresses.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.former) || oldSelf.former.size() == 0 || has(self.former)",message="former must not be dropped: the writer is an agent of an earlier release that does not know it; upgrade the agent"
type SpiderIPBlockSpec struct {
	// CIDR is the block: an IPv4 /28 or an IPv6 /124.
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="cidr is immutable"
	CIDR string `json:"cidr"`

	// Node is the node that created the block and prefers it. It is a hint, not a
	// lock: any node may lease an address of the block.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Node string `json:"node,omitempty"`

	// Leases has at most one entry per address.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Leases []Lease `json:"leases,omitempty"`

	// Former are sandboxes that lost their lease to a successor and may still use the
	// address, so no other pod gets it. A sandbox leaves the list on proof of its end:
	// its DEL, its node's agent, or the end of its node. A writer that removes the last
	// one writes an empty list.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Former []FormerSandbox `json:"former,omitzero"`
}

// SpiderIPBlock records the holders of 16 aligned addresses: an IPv4 /28 or an
// IPv6 /124. Its name is the first of these addresses, so two writers of one
// address always meet in one object. Only Spiderpool writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={spiderpool},path=spideripblocks,scope=Cluster,shortName=sib,singular=spideripblock
// +kubebuilder:printcolumn:name=CIDR,type=string,JSONPath=`.spec.cidr`,description="addresses"
// +kubebuilder:printcolumn:name=NODE,type=string,JSONPath=`.spec.node`,description="node that created it"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
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
