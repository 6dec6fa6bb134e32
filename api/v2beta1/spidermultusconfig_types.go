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

// Bond is a bond that is made of several master interfaces.
type Bond struct {
	// Name of the bond interface.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not the name of an interface; write one as 'bond0'"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than the 15 bytes that the name of an interface has; write one as 'bond0'"`
	Name string `json:"name"`

	// Mode of the bond, as the kernel numbers them (0 is balance-rr, 6 is balance-alb).
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=6
	Mode int32 `json:"mode"`

	// Options of the bond as "key=value", separated by ";".
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule=`self.matches('^(\\s*([^\\s=;][^=;]*=[^;]*)?(;|$))*$')`,messageExpression=`"'" + self + "' is not a list of key=value; write one as 'miimon=100;lacp_rate=1'"`
	// +optional
	Options *string `json:"options,omitempty"`
}

// AttachmentPools are the pools that an attachment uses where the pod and its namespace name none.
type AttachmentPools struct {
	// IPv4 are names of pools.
	// +optional
	IPv4 []string `json:"ipv4,omitempty"`

	// IPv6 are names of pools.
	// +optional
	IPv6 []string `json:"ipv6,omitempty"`

	// MatchMasterSubnet uses only pools of the subnet of the master interface.
	// +kubebuilder:default=false
	// +optional
	MatchMasterSubnet *bool `json:"matchMasterSubnet,omitempty"`
}

// MasterConfig configures macvlan and ipvlan.
//
// +kubebuilder:validation:XValidation:rule=`self.master.size() < 2 || has(self.bond)`,messageExpression=`"is missing, but master names several interfaces (" + self.master.join(", ") + "): name the bond to make of them, or name one master"`,fieldPath=`.bond`
type MasterConfig struct {
	// Master are the node's interfaces; several make a bond.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not the name of an interface; write one as 'ip link' shows it"`
	// +kubebuilder:validation:items:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than the 15 bytes that the name of an interface has; write one as 'ip link' shows it"`
	Master []string `json:"master"`

	// VlanID makes a VLAN sub-interface of the master; 0 makes none.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanID *int32 `json:"vlanID,omitempty"`

	// MTU of the pod's interface; 0 takes the master's.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MTU *int32 `json:"mtu,omitempty"`

	// Bond to make of several masters.
	// +optional
	Bond *Bond `json:"bond,omitempty"`

	// RDMAResourceName is the RDMA device resource that pods of the attachment request.
	// +optional
	RDMAResourceName *string `json:"rdmaResourceName,omitempty"`

	// IPPools are the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// VlanMode says where the ID of a VLAN comes from.
//
// +kubebuilder:validation:Enum=manual;auto
type VlanMode string

const (
	VlanManual VlanMode = "manual"
	VlanAuto   VlanMode = "auto"
)

// VlanConfig configures vlan.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.vlanMode) || self.vlanMode != 'manual' || has(self.vlanID)`,message="is missing, but vlanMode is manual: write the VLAN ID",fieldPath=`.vlanID`
// +kubebuilder:validation:XValidation:rule=`!has(self.vlanMode) || self.vlanMode != 'auto' || !has(self.vlanID)`,messageExpression=`"%d is given, but vlanMode is auto, which finds it out: leave vlanID out, or write vlanMode: manual".format([self.vlanID])`,fieldPath=`.vlanID`
// +kubebuilder:validation:XValidation:rule=`has(self.vlanMode) || has(self.vlanID)`,message="is missing, and so is vlanMode: write the VLAN ID, or vlanMode: auto",fieldPath=`.vlanID`
type VlanConfig struct {
	MasterConfig `json:",inline"`

	// VlanMode says where the VLAN ID comes from: manual needs vlanID, auto forbids it.
	// +optional
	VlanMode *VlanMode `json:"vlanMode,omitempty"`
}

// SriovConfig configures sriov.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.minTxRateMbps) || !has(self.maxTxRateMbps) || self.maxTxRateMbps == 0 || self.minTxRateMbps <= self.maxTxRateMbps`,messageExpression=`"%d is more than maxTxRateMbps, %d; write a lower rate".format([self.minTxRateMbps, self.maxTxRateMbps])`,fieldPath=`.minTxRateMbps`
type SriovConfig struct {
	// ResourceName is the extended resource of the virtual functions.
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

	// RDMAIsolation moves the RDMA device into the pod's namespace.
	// +kubebuilder:default=false
	// +optional
	RDMAIsolation *bool `json:"rdmaIsolation,omitempty"`

	// IPPools are the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// IBSriovConfig configures ib-sriov.
type IBSriovConfig struct {
	// ResourceName is the extended resource of the virtual functions.
	// +kubebuilder:validation:MinLength=1
	ResourceName string `json:"resourceName"`

	// Pkey is the InfiniBand partition key, as "0x8001".
	// +optional
	Pkey *string `json:"pkey,omitempty"`

	// LinkState of the virtual function.
	// +kubebuilder:validation:Enum=auto;enable;disable
	// +kubebuilder:default=enable
	// +optional
	LinkState *string `json:"linkState,omitempty"`

	// RDMAIsolation moves the RDMA device into the pod's namespace.
	// +kubebuilder:default=true
	// +optional
	RDMAIsolation *bool `json:"rdmaIsolation,omitempty"`

	// EnableIBKubernetes leaves the GUIDs to ib-kubernetes.
	// +kubebuilder:default=false
	// +optional
	EnableIBKubernetes *bool `json:"enableIbKubernetes,omitempty"`

	// IPPools are the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// IPoIBConfig configures ipoib.
type IPoIBConfig struct {
	// Master is the node's InfiniBand interface.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not the name of an interface; write one as 'ip link' shows it"`
	// +kubebuilder:validation:XValidation:rule=`bytes(self).size() <= 15`,messageExpression=`"'" + self + "' is longer than the 15 bytes that the name of an interface has; write one as 'ip link' shows it"`
	Master string `json:"master"`

	// IPPools are the attachment's pools.
	// +optional
	IPPools *AttachmentPools `json:"ippools,omitempty"`
}

// Trunk is a VLAN ID or a range of them.
//
// +kubebuilder:validation:XValidation:rule=`has(self.id) != (has(self.minID) || has(self.maxID))`,message="holds neither id nor a range, or both: write id, or minID and maxID"
// +kubebuilder:validation:XValidation:rule=`has(self.minID) == has(self.maxID) && (!has(self.minID) || self.minID <= self.maxID)`,message="is not a range: write minID and maxID, the lower first"
type Trunk struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MinID *uint `json:"minID,omitempty"`

	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	MaxID *uint `json:"maxID,omitempty"`

	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	ID *uint `json:"id,omitempty"`
}

// OvsConfig configures ovs.
type OvsConfig struct {
	// BrName is the bridge.
	// +kubebuilder:validation:MinLength=1
	BrName string `json:"bridge"`

	// VlanTag of the port.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4094
	// +optional
	VlanTag *int32 `json:"vlan,omitempty"`

	// Trunk are the VLANs of a trunk port.
	// +kubebuilder:validation:MaxItems=4094
	// +optional
	Trunk []Trunk `json:"trunk,omitempty"`

	// DeviceID is the PCI address of a device with hardware offload.
	// +optional
	DeviceID string `json:"deviceID,omitempty"`

	// IPPools are the attachment's pools.
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
	// CNIType names the main plugin; the section of that name configures it.
	// +kubebuilder:default=custom
	// +optional
	CNIType *CNIType `json:"cniType,omitempty"`

	// +optional
	Macvlan *MasterConfig `json:"macvlan,omitempty"`

	// +optional
	IPvlan *MasterConfig `json:"ipvlan,omitempty"`

	// +optional
	Vlan *VlanConfig `json:"vlan,omitempty"`

	// +optional
	Sriov *SriovConfig `json:"sriov,omitempty"`

	// +optional
	IBSriov *IBSriovConfig `json:"ibsriov,omitempty"`

	// +optional
	IPoIB *IPoIBConfig `json:"ipoib,omitempty"`

	// +optional
	Ovs *OvsConfig `json:"ovs,omitempty"`

	// EnableCoordinator chains the coordinator; it is never chained for custom.
	// +kubebuilder:default=true
	// +optional
	EnableCoordinator *bool `json:"enableCoordinator,omitempty"`

	// DisableIPAM leaves the interface without an address.
	// +kubebuilder:default=false
	// +optional
	DisableIPAM *bool `json:"disableIPAM,omitempty"`

	// Coordinator configures the coordinator of this attachment.
	// +optional
	Coordinator *CoordinatorSpec `json:"coordinator,omitempty"`

	// ChainCNIJSONData are plugin configurations in JSON that follow in the chain.
	// +optional
	ChainCNIJSONData []string `json:"chainCNIJsonData,omitempty"`

	// CustomCNI is the whole configuration in JSON, for cniType custom.
	// +optional
	CustomCNI *string `json:"customCNI,omitempty"`
}

// SpiderMultusConfigStatus says whether the NetworkAttachmentDefinition is as described.
type SpiderMultusConfigStatus struct {
	// Conditions: Ready says whether the NetworkAttachmentDefinition is as described.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderMultusConfig makes a NetworkAttachmentDefinition for Multus.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidermultusconfigs,scope=Namespaced,shortName=smc,singular=spidermultusconfig
// +kubebuilder:printcolumn:name=TYPE,type=string,JSONPath=`.spec.cniType`,description="main plugin"
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether the NetworkAttachmentDefinition is as described"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`
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
