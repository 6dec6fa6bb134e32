package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CNIType names the main plugin of an attachment.
//
// +kubebuilder:validation:Enum=macvlan;ipvlan;vlan;sriov;ovs;ib-sriov;ipoib;custom
type CNIType string

const (
	CNIMacvlan CNIType = "macvlan"
	CNIIPvlan  CNIType = "ipvlan"
	CNIVlan    CNIType = "vlan"
	CNISriov   CNIType = "sriov"
	CNIOvs     CNIType = "ovs"
	CNIIBSriov CNIType = "ib-sriov"
	CNIIPoIB   CNIType = "ipoib"
	CNICustom  CNIType = "custom"
)

// Bond describes a bond of several master interfaces.
type Bond struct {
	// Name of the bond interface, e.g. "bond0".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not an interface name, such as 'bond0'"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than 15 bytes, the limit for interface names; use a name such as 'bond0'"`
	Name string `json:"name"`

	// Mode of the bond by the kernel's number: 0 is balance-rr, 1 active-backup, 2 balance-xor,
	// 3 broadcast, 4 802.3ad, 5 balance-tlb, 6 balance-alb.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=6
	Mode int32 `json:"mode"`

	// Options of the bond, "key=value" pairs separated by ";", e.g. "miimon=100;lacp_rate=1".
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule=`self.matches('^(\\s*([^\\s=;][^=;]*=[^;]*)?(;|$))*$')`,messageExpression=`"'" + self + "' is not a list of key=value pairs, such as 'miimon=100;lacp_rate=1'"`
	// +optional
	Options *string `json:"options,omitempty"`
}

// AttachmentPools lists an attachment's pools. They apply if neither the pod nor its namespace names any.
type AttachmentPools struct {
	// IPv4 lists SpiderIPPools of IPv4.
	// +optional
	IPv4 []string `json:"ipv4,omitempty"`

	// IPv6 lists SpiderIPPools of IPv6.
	// +optional
	IPv6 []string `json:"ipv6,omitempty"`

	// MatchMasterSubnet excludes pools in other subnets than the master interface's.
	// +kubebuilder:default=false
	// +optional
	MatchMasterSubnet *bool `json:"matchMasterSubnet,omitempty"`
}

// MasterConfig configures the plugin macvlan or ipvlan.
//
// +kubebuilder:validation:XValidation:rule=`self.master.size() < 2 || has(self.bond)`,messageExpression=`"is missing, but master names several interfaces (" + self.master.join(", ") + "): name the bond to make of them, or name one master"`,fieldPath=`.bond`
type MasterConfig struct {
	// Master lists the node's interfaces, e.g. "ens5". Several need a bond.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not an interface name; copy the name from 'ip link'"`
	// +kubebuilder:validation:items:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than 15 bytes, the limit for interface names; copy the name from 'ip link'"`
	Master []string `json:"master"`

	// VlanID is the ID of a VLAN interface to create on the master. 0 creates none.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`

	// MTU of the pod's interface. 0 means the MTU of the master.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`

	// Bond to create from several masters.
	// +optional
	Bond *Bond `json:"bond,omitempty"`

	// RDMAResourceName is the RDMA device resource that pods with this attachment request.
	// +optional
	RDMAResourceName *string `json:"rdmaResourceName,omitempty"`

	// IPPools lists the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// VlanMode selects the source of a VLAN ID.
//
// +kubebuilder:validation:Enum=manual;auto
type VlanMode string

const (
	// VlanManual takes the ID from vlanID.
	VlanManual VlanMode = "manual"
	// VlanAuto would take the ID from the network. It is not supported yet.
	VlanAuto VlanMode = "auto"
)

// VlanConfig configures the plugin vlan.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.vlanMode) || self.vlanMode != 'manual' || has(self.vlanID)`,message="is missing, but vlanMode is manual: write the VLAN ID",fieldPath=`.vlanID`
// +kubebuilder:validation:XValidation:rule=`!has(self.vlanMode) || self.vlanMode != 'auto' || !has(self.vlanID)`,messageExpression=`"%d is set, but vlanMode is auto: omit vlanID, or write vlanMode: manual".format([self.vlanID])`,fieldPath=`.vlanID`
// +kubebuilder:validation:XValidation:rule=`has(self.vlanMode) || has(self.vlanID)`,message="is missing, and so is vlanMode: write the VLAN ID, or vlanMode: auto",fieldPath=`.vlanID`
type VlanConfig struct {
	MasterConfig `json:",inline"`

	// VlanMode selects the source of the VLAN ID: manual requires vlanID, auto
	// forbids it. The controller does not support auto yet and reports it in the
	// condition Ready.
	// +optional
	VlanMode *VlanMode `json:"vlanMode,omitempty"`
}

// SriovConfig configures the plugin sriov.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.minTxRateMbps) || !has(self.maxTxRateMbps) || self.maxTxRateMbps == 0 || self.minTxRateMbps <= self.maxTxRateMbps`,messageExpression=`"%d is more than maxTxRateMbps, %d; write a lower rate".format([self.minTxRateMbps, self.maxTxRateMbps])`,fieldPath=`.minTxRateMbps`
type SriovConfig struct {
	// ResourceName is the extended resource for the virtual functions, e.g. "spidernet.io/sriov".
	// +kubebuilder:validation:MinLength=1
	ResourceName string `json:"resourceName"`

	// VlanID of the virtual function.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`

	// MTU of the pod's interface.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`

	// MinTxRateMbps is the guaranteed rate in Mbit/s.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MinTxRateMbps *int `json:"minTxRateMbps,omitempty"`

	// MaxTxRateMbps is the highest rate in Mbit/s.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxTxRateMbps *int `json:"maxTxRateMbps,omitempty"`

	// RDMAIsolation moves the RDMA device into the pod's network namespace.
	// +kubebuilder:default=false
	// +optional
	RDMAIsolation *bool `json:"rdmaIsolation,omitempty"`

	// IPPools lists the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// IBSriovConfig configures the plugin ib-sriov.
type IBSriovConfig struct {
	// ResourceName is the extended resource for the virtual functions, e.g. "spidernet.io/sriov".
	// +kubebuilder:validation:MinLength=1
	ResourceName string `json:"resourceName"`

	// Pkey is the InfiniBand partition key, e.g. "0x8001".
	// +optional
	Pkey *string `json:"pkey,omitempty"`

	// LinkState of the virtual function.
	// +kubebuilder:validation:Enum=auto;enable;disable
	// +kubebuilder:default=enable
	// +optional
	LinkState *string `json:"linkState,omitempty"`

	// RDMAIsolation moves the RDMA device into the pod's network namespace.
	// +kubebuilder:default=true
	// +optional
	RDMAIsolation *bool `json:"rdmaIsolation,omitempty"`

	// EnableIBKubernetes lets ib-kubernetes manage the GUIDs.
	// +kubebuilder:default=false
	// +optional
	EnableIBKubernetes *bool `json:"enableIbKubernetes,omitempty"`

	// IPPools lists the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// IPoIBConfig configures the plugin ipoib.
type IPoIBConfig struct {
	// Master is the node's InfiniBand interface, e.g. "ib0".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not an interface name; copy the name from 'ip link'"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than 15 bytes, the limit for interface names; copy the name from 'ip link'"`
	Master string `json:"master"`

	// IPPools lists the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// Trunk is either one VLAN ID (id) or a range of VLAN IDs (minID to maxID).
//
// +kubebuilder:validation:XValidation:rule=`has(self.id) != (has(self.minID) || has(self.maxID))`,message="needs either id or a range: write id, or minID and maxID"
// +kubebuilder:validation:XValidation:rule=`has(self.minID) == has(self.maxID) && (!has(self.minID) || self.minID <= self.maxID)`,message="is not a range: write minID and maxID, with minID <= maxID"
type Trunk struct {
	// MinID is the first VLAN ID of a range.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MinID *uint `json:"minID,omitempty"`

	// MaxID is the last VLAN ID of a range.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MaxID *uint `json:"maxID,omitempty"`

	// ID is a single VLAN ID.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	ID *uint `json:"id,omitempty"`
}

// OvsConfig configures the plugin ovs.
type OvsConfig struct {
	// BrName is the Open vSwitch bridge, e.g. "br1".
	// +kubebuilder:validation:MinLength=1
	BrName string `json:"bridge"`

	// VlanTag is the VLAN ID of an access port.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanTag *int32 `json:"vlan,omitempty"`

	// Trunk lists the VLANs of a trunk port.
	// +kubebuilder:validation:MaxItems=4094
	// +optional
	Trunk []Trunk `json:"trunk,omitempty"`

	// DeviceID is the PCI address of a device with hardware offload, e.g. "0000:03:00.2".
	// +optional
	DeviceID string `json:"deviceID,omitempty"`

	// IPPools lists the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// SpiderMultusConfigSpec describes a network attachment.
//
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'macvlan' || has(self.macvlan)`,message="is missing, but cniType is macvlan: write the section macvlan",fieldPath=`.macvlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'macvlan' || !has(self.macvlan)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section macvlan, or write cniType: macvlan"`,fieldPath=`.macvlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'ipvlan' || has(self.ipvlan)`,message="is missing, but cniType is ipvlan: write the section ipvlan",fieldPath=`.ipvlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'ipvlan' || !has(self.ipvlan)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section ipvlan, or write cniType: ipvlan"`,fieldPath=`.ipvlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'vlan' || has(self.vlan)`,message="is missing, but cniType is vlan: write the section vlan",fieldPath=`.vlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'vlan' || !has(self.vlan)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section vlan, or write cniType: vlan"`,fieldPath=`.vlan`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'sriov' || has(self.sriov)`,message="is missing, but cniType is sriov: write the section sriov",fieldPath=`.sriov`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'sriov' || !has(self.sriov)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section sriov, or write cniType: sriov"`,fieldPath=`.sriov`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'ib-sriov' || has(self.ibsriov)`,message="is missing, but cniType is ib-sriov: write the section ibsriov",fieldPath=`.ibsriov`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'ib-sriov' || !has(self.ibsriov)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section ibsriov, or write cniType: ib-sriov"`,fieldPath=`.ibsriov`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'ipoib' || has(self.ipoib)`,message="is missing, but cniType is ipoib: write the section ipoib",fieldPath=`.ipoib`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'ipoib' || !has(self.ipoib)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section ipoib, or write cniType: ipoib"`,fieldPath=`.ipoib`
// +kubebuilder:validation:XValidation:rule=`self.cniType != 'ovs' || has(self.ovs)`,message="is missing, but cniType is ovs: write the section ovs",fieldPath=`.ovs`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'ovs' || !has(self.ovs)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section ovs, or write cniType: ovs"`,fieldPath=`.ovs`
// +kubebuilder:validation:XValidation:rule=`self.cniType == 'custom' || !has(self.customCNI)`,messageExpression=`"is given, but cniType is " + self.cniType + ": remove the section customCNI, or write cniType: custom"`,fieldPath=`.customCNI`
type SpiderMultusConfigSpec struct {
	// CNIType selects the main plugin. The section with its name configures it.
	// +kubebuilder:default=custom
	// +optional
	CNIType *CNIType `json:"cniType,omitempty"`

	// Macvlan is required if cniType is macvlan, and forbidden otherwise.
	// +optional
	Macvlan *MasterConfig `json:"macvlan,omitempty"`

	// IPvlan is required if cniType is ipvlan, and forbidden otherwise.
	// +optional
	IPvlan *MasterConfig `json:"ipvlan,omitempty"`

	// Vlan is required if cniType is vlan, and forbidden otherwise.
	// +optional
	Vlan *VlanConfig `json:"vlan,omitempty"`

	// Sriov is required if cniType is sriov, and forbidden otherwise.
	// +optional
	Sriov *SriovConfig `json:"sriov,omitempty"`

	// IBSriov is required if cniType is ib-sriov, and forbidden otherwise.
	// +optional
	IBSriov *IBSriovConfig `json:"ibsriov,omitempty"`

	// IPoIB is required if cniType is ipoib, and forbidden otherwise.
	// +optional
	IPoIB *IPoIBConfig `json:"ipoib,omitempty"`

	// Ovs is required if cniType is ovs, and forbidden otherwise.
	// +optional
	Ovs *OvsConfig `json:"ovs,omitempty"`

	// EnableCoordinator adds the coordinator to the plugin chain. It has no effect if cniType is custom.
	// +kubebuilder:default=true
	// +optional
	EnableCoordinator *bool `json:"enableCoordinator,omitempty"`

	// DisableIPAM creates the interface without an address.
	// +kubebuilder:default=false
	// +optional
	DisableIPAM *bool `json:"disableIPAM,omitempty"`

	// Coordinator overrides the SpiderCoordinator for this attachment, field by field.
	// +optional
	Coordinator *CoordinatorSpec `json:"coordinator,omitempty"`

	// ChainCNIJSONData lists further plugins of the chain, each as a JSON configuration,
	// e.g. '{"type": "portmap", "capabilities": {"portMappings": true}}'.
	// +optional
	ChainCNIJSONData []string `json:"chainCNIJsonData,omitempty"`

	// CustomCNI is the complete CNI configuration in JSON if cniType is custom.
	// +optional
	CustomCNI *string `json:"customCNI,omitempty"`
}

// SpiderMultusConfigStatus tells whether the NetworkAttachmentDefinition matches the specification.
type SpiderMultusConfigStatus struct {
	// Conditions has the condition Ready: True if the NetworkAttachmentDefinition matches the specification.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderMultusConfig describes a network attachment. The controller creates a
// NetworkAttachmentDefinition for Multus from it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidermultusconfigs,scope=Namespaced,shortName=smc,singular=spidermultusconfig
// +kubebuilder:printcolumn:name=TYPE,type=string,JSONPath=`.spec.cniType`,description="main plugin"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether the NetworkAttachmentDefinition matches the specification"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
type SpiderMultusConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderMultusConfigSpec   `json:"spec,omitempty"`
	Status SpiderMultusConfigStatus `json:"status,omitempty"`
}

// SpiderMultusConfigList is a list of SpiderMultusConfigs.
//
// +kubebuilder:object:root=true
type SpiderMultusConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderMultusConfig `json:"items"`
}
