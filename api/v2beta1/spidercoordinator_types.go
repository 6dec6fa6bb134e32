package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CoordinatorMode says how the coordinator arranges a pod's interfaces.
//
// +kubebuilder:validation:Enum=auto;underlay;overlay;disabled
type CoordinatorMode string

const (
	ModeAuto     CoordinatorMode = "auto"
	ModeUnderlay CoordinatorMode = "underlay"
	ModeOverlay  CoordinatorMode = "overlay"
	ModeDisabled CoordinatorMode = "disabled"
)

// PodCIDRType says where the CIDRs of overlay pods are read from.
//
// +kubebuilder:validation:Enum=auto;cluster;calico;cilium;none
type PodCIDRType string

const (
	PodCIDRAuto    PodCIDRType = "auto"
	PodCIDRCluster PodCIDRType = "cluster"
	PodCIDRCalico  PodCIDRType = "calico"
	PodCIDRCilium  PodCIDRType = "cilium"
	PodCIDRNone    PodCIDRType = "none"
)

// CoordinatorSpec configures the coordinator plugin, for the cluster in a
// SpiderCoordinator or for one attachment in a SpiderMultusConfig, where a field
// that is left out is taken from the SpiderCoordinator.
type CoordinatorSpec struct {
	// Mode says how the coordinator arranges a pod's interfaces.
	// +optional
	Mode *CoordinatorMode `json:"mode,omitempty"`

	// PodCIDRType says where the CIDRs of overlay pods are read from.
	// +optional
	PodCIDRType *PodCIDRType `json:"podCIDRType,omitempty"`

	// HijackCIDR are destinations that pods reach through their node.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation; write one as '10.0.0.0/8' or 'fd00::/64'"`
	HijackCIDR []string `json:"hijackCIDR,omitempty"`

	// PolicyRoutes are routes that every table of a pod gets.
	// +optional
	PolicyRoutes Routes `json:"policyRoutes,omitempty"`

	// PodMACPrefix is the first two bytes of the pods' hardware addresses, as "0a:1b"; the rest is the IPv4 address.
	// +optional
	// +kubebuilder:validation:MaxLength=5
	// +kubebuilder:validation:XValidation:rule=`self == '' || self.matches('^[0-9a-fA-F]{2}:[0-9a-fA-F]{2}$')`,messageExpression=`"'" + self + "' is not two bytes; write them as '0a:1b'"`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^[0-9a-fA-F][13579bBdDfF]:')`,messageExpression=`"'" + self + "' begins with an odd byte, which makes a multicast address; write an even first byte, as '0a:1b'"`
	PodMACPrefix *string `json:"podMACPrefix,omitempty"`

	// TunePodRoutes arranges the routes of pods with several interfaces.
	// +optional
	TunePodRoutes *bool `json:"tunePodRoutes,omitempty"`

	// PodDefaultRouteNIC is the interface with the default route.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self == '' || self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not the name of an interface of a pod; write one as 'eth0' or 'net1'"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than the 15 bytes that the name of an interface has; write one as 'eth0' or 'net1'"`
	PodDefaultRouteNIC *string `json:"podDefaultRouteNIC,omitempty"`

	// HostRuleTable is the routing table of the node that holds the routes to its pods.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule=`!(self in [253, 254, 255])`,messageExpression=`"%d is a table of the kernel's own (default, main, local); write another one, as 500".format([self])`
	HostRuleTable *int `json:"hostRuleTable,omitempty"`

	// PodRPFilter is the value of rp_filter in the pod: 0, 1 or 2.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2
	PodRPFilter *int `json:"podRPFilter,omitempty"`

	// TxQueueLen is the length of the transmit queue of the pod's interfaces; 0 leaves it as it is.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TxQueueLen *int `json:"txQueueLen,omitempty"`

	// VethLinkAddress is a link-local address for veth0 of the pod.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self == '' || (isIP(self) && ip(self).isLinkLocalUnicast())`,messageExpression=`"'" + self + "' is not a link-local address; write one of 169.254.0.0/16 or fe80::/10, or leave it out"`
	VethLinkAddress *string `json:"vethLinkAddress,omitempty"`

	// VethMTU is the MTU of veth0.
	// +kubebuilder:validation:Minimum=1
	// +optional
	VethMTU *int `json:"vethMTU,omitempty"`

	// DetectGateway is accepted and has no effect; see the installation value ipam.enableGatewayDetection.
	// +optional
	DetectGateway *bool `json:"detectGateway,omitempty"`

	// DetectIPConflict is accepted and has no effect; see the installation value ipam.enableIPConflictDetection.
	// +optional
	DetectIPConflict *bool `json:"detectIPConflict,omitempty"`

	// HostRPFilter is accepted and has no effect.
	// +optional
	HostRPFilter *int `json:"hostRPFilter,omitempty"`
}

// CoordinatorPhase says whether the status of a SpiderCoordinator is complete.
type CoordinatorPhase string

const (
	CoordinatorSynced   CoordinatorPhase = "Synced"
	CoordinatorNotReady CoordinatorPhase = "NotReady"
)

// SpiderCoordinatorStatus is what was found out about the cluster.
type SpiderCoordinatorStatus struct {
	// Phase is Synced or NotReady.
	// +optional
	Phase CoordinatorPhase `json:"phase,omitempty"`

	// Reason says why the phase is NotReady.
	// +optional
	Reason string `json:"reason,omitempty"`

	// OverlayPodCIDR are the networks of overlay pods.
	// +optional
	OverlayPodCIDR []string `json:"overlayPodCIDR,omitempty"`

	// ServiceCIDR are the networks of ClusterIPs.
	// +optional
	ServiceCIDR []string `json:"serviceCIDR,omitempty"`

	// Conditions: Ready has the same meaning as the phase Synced.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderCoordinator configures the coordinator for the cluster. There is one, named "default".
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidercoordinators,scope=Cluster,shortName=scc,singular=spidercoordinator
// +kubebuilder:printcolumn:name=MODE,type=string,JSONPath=`.spec.mode`,description="mode"
// +kubebuilder:printcolumn:name=PHASE,type=string,JSONPath=`.status.phase`,description="phase"
// +kubebuilder:printcolumn:name=SERVICE-CIDR,type=string,JSONPath=`.status.serviceCIDR`,description="networks of ClusterIPs"
// +kubebuilder:printcolumn:name=OVERLAY-POD-CIDR,type=string,JSONPath=`.status.overlayPodCIDR`,description="networks of overlay pods",priority=10
type SpiderCoordinator struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CoordinatorSpec         `json:"spec,omitempty"`
	Status SpiderCoordinatorStatus `json:"status,omitempty"`
}

// SpiderCoordinatorList is a list of SpiderCoordinators.
//
// +kubebuilder:object:root=true
type SpiderCoordinatorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderCoordinator `json:"items"`
}
