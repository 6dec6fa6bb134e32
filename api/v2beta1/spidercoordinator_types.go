package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CoordinatorMode selects the routes that the coordinator sets up in a pod.
//
// +kubebuilder:validation:Enum=auto;underlay;overlay;disabled
type CoordinatorMode string

const (
	// ModeAuto chooses underlay if Spiderpool made the pod's first interface, else overlay.
	ModeAuto CoordinatorMode = "auto"
	// ModeUnderlay adds a veth pair to the pod's node and routes to the node and to Services.
	ModeUnderlay CoordinatorMode = "underlay"
	// ModeOverlay keeps the veth pair of the overlay network and adds the underlay interfaces' routes.
	ModeOverlay CoordinatorMode = "overlay"
	// ModeDisabled leaves every pod unchanged.
	ModeDisabled CoordinatorMode = "disabled"
)

// PodCIDRType selects the source of the overlay pods' CIDRs.
//
// +kubebuilder:validation:Enum=auto;cluster;calico;cilium;none
type PodCIDRType string

const (
	// PodCIDRAuto tries Calico, then Cilium, then the cluster.
	PodCIDRAuto PodCIDRType = "auto"
	// PodCIDRCluster reads the pod network of Kubernetes itself, e.g. from kubeadm's configuration.
	PodCIDRCluster PodCIDRType = "cluster"
	// PodCIDRCalico reads Calico's IPPools.
	PodCIDRCalico PodCIDRType = "calico"
	// PodCIDRCilium reads Cilium's configuration.
	PodCIDRCilium PodCIDRType = "cilium"
	// PodCIDRNone means that the cluster has no overlay network.
	PodCIDRNone PodCIDRType = "none"
)

// CoordinatorSpec configures the coordinator plugin: for the whole cluster in a
// SpiderCoordinator, for one attachment in a SpiderMultusConfig. An attachment
// inherits each field it omits from the SpiderCoordinator.
type CoordinatorSpec struct {
	// Mode selects the routes that the coordinator sets up in a pod: auto (the
	// default) chooses underlay if Spiderpool made the pod's first interface, else
	// overlay; disabled leaves the pod unchanged.
	// +optional
	Mode *CoordinatorMode `json:"mode,omitempty"`

	// PodCIDRType selects the source of the overlay pods' CIDRs: cluster, calico or
	// cilium; none if there is no overlay network; auto (the default) tries Calico,
	// then Cilium, then the cluster.
	// +optional
	PodCIDRType *PodCIDRType `json:"podCIDRType,omitempty"`

	// ServiceCIDR lists the networks of ClusterIPs, e.g. "10.96.0.0/12". Set it if the controller cannot find them: before Kubernetes
	// 1.33, a managed control plane hides them. By default, the status has the networks that the controller finds.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation, such as '10.96.0.0/12' or 'fd00:96::/112'"`
	ServiceCIDR []string `json:"serviceCIDR,omitempty"`

	// OverlayPodCIDR lists the networks of overlay pods, e.g. "10.244.0.0/16". It replaces the source in podCIDRType.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation, such as '10.244.0.0/16' or 'fd00:244::/56'"`
	OverlayPodCIDR []string `json:"overlayPodCIDR,omitempty"`

	// HijackCIDR lists the networks or addresses that pods reach through their node,
	// e.g. "169.254.0.0/16" or "169.254.20.10" for a node-local DNS cache.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self) || isIP(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64', or an address"`
	HijackCIDR []string `json:"hijackCIDR,omitempty"`

	// PolicyRoutes are added to every routing table of a pod.
	// +optional
	PolicyRoutes PolicyRoutes `json:"policyRoutes,omitempty"`

	// PodMACPrefix is the first two bytes of the pods' MAC addresses, e.g. "0a:1b". The pod's IPv4 address is the other four.
	// The first byte must be even, because an odd one makes a multicast address.
	// +optional
	// +kubebuilder:validation:MaxLength=5
	// +kubebuilder:validation:XValidation:rule=`self == '' || self.matches('^[0-9a-fA-F]{2}:[0-9a-fA-F]{2}$')`,messageExpression=`"'" + self + "' is not two bytes in hexadecimal, such as '0a:1b'"`
	// +kubebuilder:validation:XValidation:rule=`!self.matches('^[0-9a-fA-F][13579bBdDfF]:')`,messageExpression=`"'" + self + "' begins with an odd byte, which makes a multicast address; use an even first byte, e.g. '0a:1b'"`
	PodMACPrefix *string `json:"podMACPrefix,omitempty"`

	// TunePodRoutes gives each interface of a pod its own routing table, so that
	// replies leave by the interface of the request. The default is true.
	// +optional
	TunePodRoutes *bool `json:"tunePodRoutes,omitempty"`

	// PodDefaultRouteNIC is the pod's interface for the default route, e.g. "net1".
	// The default is the interface that already has it, normally the first.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self == '' || self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not an interface name, such as 'eth0' or 'net1'"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than 15 bytes, the limit for interface names; use a name such as 'eth0' or 'net1'"`
	PodDefaultRouteNIC *string `json:"podDefaultRouteNIC,omitempty"`

	// HostRuleTable is the node's routing table for the routes to its pods. The
	// default is 500. The kernel reserves 253 (default), 254 (main) and 255 (local).
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule=`!(self in [253, 254, 255])`,messageExpression=`"%d is reserved by the kernel (253 default, 254 main, 255 local); use another table, e.g. 500".format([self])`
	HostRuleTable *int `json:"hostRuleTable,omitempty"`

	// PodRPFilter is the value of the sysctl rp_filter in the pod: 0 (off, the default), 1 (strict) or 2 (loose).
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2
	PodRPFilter *int `json:"podRPFilter,omitempty"`

	// TxQueueLen is the transmit queue length of the pod's interfaces, in packets. 0, the default, keeps the kernel's.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TxQueueLen *int `json:"txQueueLen,omitempty"`

	// VethLinkAddress is a link-local address for the pod's veth0, e.g. "169.254.100.1". By default veth0 has none.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self == '' || (isIP(self) && ip(self).isLinkLocalUnicast())`,messageExpression=`"'" + self + "' is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field"`
	VethLinkAddress *string `json:"vethLinkAddress,omitempty"`

	// VethMTU is the MTU of the pod's veth0. The default is 1500.
	// +kubebuilder:validation:Minimum=1
	// +optional
	VethMTU *int `json:"vethMTU,omitempty"`

	// AntiSpoof lets a pod send only from its own addresses on each interface: from the leased IP addresses, the link-local one of the
	// interface and its MAC address, also in ARP and NDP. The nodes need Linux 5.16. The default is false.
	// +optional
	AntiSpoof *bool `json:"antiSpoof,omitempty"`

	// DetectGateway is accepted and has no effect. Use the Helm value ipam.enableGatewayDetection.
	// +optional
	DetectGateway *bool `json:"detectGateway,omitempty"`

	// DetectIPConflict is accepted and has no effect. Use the Helm value ipam.enableIPConflictDetection.
	// +optional
	DetectIPConflict *bool `json:"detectIPConflict,omitempty"`

	// HostRPFilter is accepted and has no effect.
	// +optional
	HostRPFilter *int `json:"hostRPFilter,omitempty"`
}

// CoordinatorPhase tells whether the status of a SpiderCoordinator is complete.
type CoordinatorPhase string

const (
	// CoordinatorSynced means that the networks of Services and overlay pods are known.
	CoordinatorSynced CoordinatorPhase = "Synced"
	// CoordinatorNotReady means that some are missing; the status has the reason.
	CoordinatorNotReady CoordinatorPhase = "NotReady"
)

// SpiderCoordinatorStatus holds the networks that the controller found in the cluster.
type SpiderCoordinatorStatus struct {
	// Phase is Synced or NotReady. Pods with the coordinator start only after it has been Synced.
	// +optional
	Phase CoordinatorPhase `json:"phase,omitempty"`

	// Reason tells why the phase is NotReady.
	// +optional
	Reason string `json:"reason,omitempty"`

	// OverlayPodCIDR lists the networks of overlay pods.
	// +optional
	OverlayPodCIDR []string `json:"overlayPodCIDR,omitempty"`

	// ServiceCIDR lists the networks of ClusterIPs.
	// +optional
	ServiceCIDR []string `json:"serviceCIDR,omitempty"`

	// Conditions has the condition Ready, which is True if and only if the phase is Synced.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderCoordinator configures the coordinator plugin for the cluster. Its only object is named "default".
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidercoordinators,scope=Cluster,shortName=scc,singular=spidercoordinator
// +kubebuilder:printcolumn:name=MODE,type=string,JSONPath=`.spec.mode`,description="mode"
// +kubebuilder:printcolumn:name=PHASE,type=string,JSONPath=`.status.phase`,description="phase"
// +kubebuilder:printcolumn:name=SERVICE-CIDR,type=string,JSONPath=`.status.serviceCIDR`,description="networks of ClusterIPs"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether the networks of the cluster are known; the condition has the reason"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
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
