package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PeerPort lists the pods that give the named port of a group one number.
type PeerPort struct {
	// Protocol is the protocol of the port.
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	Protocol string `json:"protocol"`

	// Port is the number.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`

	// IPs are the addresses of these pods.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=45
	// +listType=atomic
	IPs []string `json:"ips"`
}

// SpiderPeerGroupSpec holds addresses of one group.
type SpiderPeerGroupSpec struct {
	// Selects describes the selected pods to people, e.g. "pods app=web in namespaces team=a".
	// Only the first object of a group has it.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selects string `json:"selects,omitempty"`

	// Slices is the number of objects of the group, in the first of them. An agent uses a
	// group once it has read all of these.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	Slices int32 `json:"slices,omitempty"`

	// IPs are addresses of the selected pods.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=45
	// +listType=atomic
	// +optional
	IPs []string `json:"ips,omitempty"`

	// Ports are the addresses of a group with a named port, instead of IPs.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=atomic
	// +optional
	Ports []PeerPort `json:"ports,omitempty"`
}

// SpiderPeerGroup has the addresses of pods that network policies select with one pair of
// selectors, at most 1000. Its name is a hash of these selectors. Further addresses are in
// objects with the number behind the name, e.g. "3f2c…-1". Only Spiderpool writes them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories={spiderpool},path=spiderpeergroups,scope=Cluster,shortName=spg,singular=spiderpeergroup
// +kubebuilder:printcolumn:name=SLICES,type=integer,JSONPath=`.spec.slices`,description="objects of the group"
// +kubebuilder:printcolumn:name=SELECTS,type=string,JSONPath=`.spec.selects`,description="selected pods"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
type SpiderPeerGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SpiderPeerGroupSpec `json:"spec"`
}

// SpiderPeerGroupList is a list of SpiderPeerGroups.
//
// +kubebuilder:object:root=true
type SpiderPeerGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderPeerGroup `json:"items"`
}
