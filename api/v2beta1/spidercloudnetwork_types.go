package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CloudProvider names a cloud.
//
// +kubebuilder:validation:Enum=aws;alibaba;iaas
type CloudProvider string

const (
	// CloudAWS is Amazon EC2 and its VPCs.
	CloudAWS CloudProvider = "aws"
	// CloudAlibaba is ECS of Alibaba Cloud, and its VPCs.
	CloudAlibaba CloudProvider = "alibaba"
	// CloudIaaS is the HTTP service of the Helm value iaasNetworkProvider.
	CloudIaaS CloudProvider = "iaas"
)

// CloudMode says who assigns addresses to the network interfaces of the nodes.
//
// +kubebuilder:validation:Enum=Discover;Manage
type CloudMode string

const (
	// CloudDiscover only reads from the cloud: its pools follow what others have assigned.
	CloudDiscover CloudMode = "Discover"
	// CloudManage has the controller assign addresses as pods need them, and give them back.
	CloudManage CloudMode = "Manage"
)

// CloudManagement says how many addresses the interfaces have in the mode Manage.
type CloudManagement struct {
	// ReservePercent is how many addresses an interface has free for further pods, in percent of those in use. It has one
	// at least, and no more than the limit of pods of the node.
	// +kubebuilder:default=20
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	ReservePercent *int64 `json:"reservePercent,omitempty"`

	// CoolDownMinutes is how long addresses must be unneeded before the controller gives them back to the cloud.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1440
	// +optional
	CoolDownMinutes *int64 `json:"coolDownMinutes,omitempty"`
}

// CloudAction is a call that changes the cloud.
//
// +kubebuilder:validation:Enum=Assign;Unassign;Create;Attach;Delete;Move
type CloudAction string

const (
	// CloudAssign assigns addresses to an interface.
	CloudAssign CloudAction = "Assign"
	// CloudUnassign takes addresses from an interface.
	CloudUnassign CloudAction = "Unassign"
	// CloudCreate creates an interface.
	CloudCreate CloudAction = "Create"
	// CloudAttach attaches an interface to an instance, and has it deleted with the instance.
	CloudAttach CloudAction = "Attach"
	// CloudDelete deletes an interface without an instance.
	CloudDelete CloudAction = "Delete"
	// CloudMove assigns a fixed address to an interface, and takes it from the one that has it.
	CloudMove CloudAction = "Move"
)

// CloudChange is a call of the cloud that has begun, and whose outcome is not known yet.
type CloudChange struct {
	// ID distinguishes the calls.
	// +kubebuilder:validation:MaxLength=32
	ID string `json:"id"`

	// Node is the node of the interface. It is empty for an interface without one.
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	// Interface is the ID of the interface in the cloud, e.g. "eni-0123456789abcdef0". It is empty while one is created.
	// +kubebuilder:validation:MaxLength=253
	Interface string `json:"interface"`

	// Action is the call, e.g. Assign.
	Action CloudAction `json:"action"`

	// Address is the fixed address that the call moves or unassigns, e.g. "172.31.16.200". It is empty for other calls.
	// +kubebuilder:validation:MaxLength=45
	// +optional
	Address string `json:"address,omitempty"`
}

// CloudAttachment says how the controller makes an interface for a node without one.
type CloudAttachment struct {
	// SubnetTags are the tags of the subnets for the interfaces, e.g. {"pods": "yes"}. An empty value matches any. The controller
	// takes the subnet in the zone of the node with the most free addresses.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=10
	// +kubebuilder:validation:XValidation:rule=`self.all(key, key != "")`,message="a key of subnetTags is empty, and no tag has an empty key; write the key of a tag of the subnets, such as 'pods'"
	SubnetTags map[string]string `json:"subnetTags"`

	// SecurityGroups are the IDs of the security groups, e.g. ["sg-0123456789abcdef0"]. The default is those of the
	// primary interface of the node.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=64
	// +listType=set
	SecurityGroups []string `json:"securityGroups,omitempty"`
}

// CloudFixedAddresses are addresses of one subnet that follow their pods from node to node.
type CloudFixedAddresses struct {
	// Name is a part of the names of the pools, e.g. "db-a": the pools of the SpiderCloudNetwork "aws" are aws-db-a-fixed-v4 and
	// aws-db-a-fixed-v6.
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is no name; write lower-case letters, digits and hyphens, such as 'db-a'"`
	Name string `json:"name"`

	// Subnet is the ID of the subnet of the addresses, e.g. "subnet-0123456789abcdef0". They go to nodes whose interface is in it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Subnet string `json:"subnet"`

	// IPs lists addresses and ranges, e.g. ["172.31.16.192-172.31.16.254"], at most 256 of each IP version. Nothing else may use
	// them: on AWS, create an explicit subnet CIDR reservation for them first, so that EC2 assigns none of them by itself.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=91
	// +listType=set
	IPs []string `json:"ips"`
}

// CloudInterface is one network interface of each node.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.attach) || self.device > 0`,message="device 0 is the primary interface, which every instance has; remove attach, or use device 1 or higher"
type CloudInterface struct {
	// Device is the device index of the interface at its instance. 0 is the primary interface.
	// On Alibaba Cloud, it is the tag spiderpool.spidernet.io/device of the interface, e.g. "1".
	// No other IPAM may manage the interface: on EKS, the Amazon VPC CNI gives the addresses of
	// device 0 to its own pods, so use 1 or higher, and give that interface the tag
	// node.k8s.amazonaws.com/no_manage=true.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=63
	Device int32 `json:"device"`

	// MultusName is the network attachment of pods on this interface, as "namespace/name",
	// e.g. "kube-system/ipvlan-ens5".
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not the name of a network attachment; write 'namespace/name'"`
	MultusName string `json:"multusName"`

	// Master is the name of the interface on the nodes, e.g. "ens5". With a master, the
	// controller creates the SpiderMultusConfig multusName, with ipvlan on that interface,
	// unless it exists. Without one, the user creates it.
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^/:\\s]+$')`,messageExpression=`"'" + self + "' is not an interface name; copy the name from 'ip link'"`
	Master string `json:"master,omitempty"`

	// Attach has the controller create the interface and attach it to nodes without an interface at this device index, up
	// to the limit of their instance type. The interface goes with its instance. It needs the mode Manage, and the provider
	// aws or alibaba.
	// +optional
	Attach *CloudAttachment `json:"attach,omitempty"`

	// FixedAddresses are addresses for pods of StatefulSets that keep theirs. Each entry makes a pool of each IP version for all nodes
	// in the zone of its subnet. A pod gets one of them if it names the pool. The controller assigns the address to this interface
	// of the pod's node, and moves it when the pod comes to another node. It needs the mode Manage.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	FixedAddresses []CloudFixedAddresses `json:"fixedAddresses,omitempty"`
}

// SpiderCloudNetworkSpec selects the interfaces of the cloud that are to have pools.
//
// +kubebuilder:validation:XValidation:rule=`self.mode == 'Manage' && self.provider != 'iaas' || self.interfaces.all(i, !has(i.attach))`,messageExpression=`"attach needs mode 'Manage' and provider 'aws' or 'alibaba', and they are '" + self.mode + "' and '" + self.provider + "'; change them, or remove attach and attach the interfaces with the tools of the cloud"`
// +kubebuilder:validation:XValidation:rule=`self.mode == 'Manage' || self.interfaces.all(i, !has(i.fixedAddresses))`,messageExpression=`"fixedAddresses needs mode 'Manage', and mode is '" + self.mode + "'; set mode, or remove fixedAddresses"`
// +kubebuilder:validation:XValidation:rule=`!has(self.manage) || self.mode == 'Manage'`,messageExpression=`"manage needs mode 'Manage', and mode is '" + self.mode + "'; set mode, or remove manage"`
type SpiderCloudNetworkSpec struct {
	// Provider is the cloud, e.g. "aws".
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`"'" + self + "' differs from '" + oldSelf + "', and provider is immutable; create a new object for another cloud"`
	Provider CloudProvider `json:"provider"`

	// Region is the region of the nodes, e.g. "eu-central-1". The default is the region of
	// the controller's own instance on AWS, and the controller's environment variable
	// ALIBABA_CLOUD_REGION_ID on Alibaba Cloud.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9-]*$')`,messageExpression=`"'" + self + "' is not a region, such as 'eu-central-1'"`
	Region string `json:"region,omitempty"`

	// Mode is Discover or Manage. With Discover, the controller makes pools of the prefixes and addresses that others
	// assign to the interfaces, e.g. Terraform or a launch template, and changes nothing in the cloud. With Manage, it
	// assigns them as pods need them, and gives them back; nothing else may then assign addresses to these interfaces.
	// +kubebuilder:default=Discover
	// +optional
	Mode CloudMode `json:"mode,omitempty"`

	// Manage bounds the addresses that the controller assigns. It needs the mode Manage.
	// +optional
	Manage *CloudManagement `json:"manage,omitempty"`

	// NodeSelector selects nodes by their labels. The default is all nodes of the provider.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`

	// Interfaces lists the interfaces of each node that get pools. Each has a network attachment of its own.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule=`self.all(i, self.exists_one(j, j.multusName == i.multusName))`,message="two interfaces have one multusName; an address works on its own interface only, so give each its own attachment"
	// +listType=map
	// +listMapKey=device
	Interfaces []CloudInterface `json:"interfaces"`

	// IPVersions lists the IP versions with pools, e.g. [4]. The default is both.
	// +optional
	// +kubebuilder:default={4,6}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=4;6
	// +listType=set
	IPVersions []int64 `json:"ipVersions,omitempty"`

	// Default makes the pools candidates for pods without a pool of their own choice.
	// +kubebuilder:default=true
	// +optional
	Default *bool `json:"default,omitempty"`
}

// SpiderCloudNetworkStatus tells whether the pools equal the cloud.
type SpiderCloudNetworkStatus struct {
	// NodeCount is the number of nodes with a pool.
	// +kubebuilder:validation:Minimum=0
	// +optional
	NodeCount *int64 `json:"nodeCount,omitempty"`

	// PoolCount is the number of pools.
	// +kubebuilder:validation:Minimum=0
	// +optional
	PoolCount *int64 `json:"poolCount,omitempty"`

	// FreeIPv4Count is the number of free IPv4 addresses in the pools. It may be a minute old.
	// +kubebuilder:validation:Minimum=0
	// +optional
	FreeIPv4Count *int64 `json:"freeIPv4Count,omitempty"`

	// FreeIPv6Count is the number of free IPv6 addresses in the pools. It may be a minute old.
	// +kubebuilder:validation:Minimum=0
	// +optional
	FreeIPv6Count *int64 `json:"freeIPv6Count,omitempty"`

	// Changes are the calls that have begun and whose outcome is not known yet. The controller writes them before a call, so that
	// its successor neither repeats the call nor acts before it can have ended.
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=256
	// +optional
	Changes []CloudChange `json:"changes,omitempty"`

	// Conditions has the condition Ready, True if every selected node has the pools of all interfaces and their addresses work. It has the
	// condition Degraded, True if the pools work, but e.g. cannot grow.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderCloudNetwork keeps one SpiderIPPool for each node, interface and IP version equal
// to what a cloud has assigned there. The pools belong to it and go with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidercloudnetworks,scope=Cluster,shortName=scn,singular=spidercloudnetwork
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 40`,messageExpression=`"'" + self.metadata.name + "' is longer than 40 characters; the names of the pools begin with it, so choose a shorter name, such as 'aws'"`
// +kubebuilder:printcolumn:name=READY,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether all nodes have their pools; the condition has the reason"
// +kubebuilder:printcolumn:name=DEGRADED,type=string,JSONPath=`.status.conditions[?(@.type=="Degraded")].status`,description="whether something stops the growth of the pools, or is a risk for them; the condition has the reason and the way out"
// +kubebuilder:printcolumn:name=MODE,type=string,JSONPath=`.spec.mode`,description="who assigns addresses"
// +kubebuilder:printcolumn:name=NODES,type=integer,JSONPath=`.status.nodeCount`,description="nodes with a pool"
// +kubebuilder:printcolumn:name=FREE-IPV4,type=integer,JSONPath=`.status.freeIPv4Count`,description="free IPv4 addresses"
// +kubebuilder:printcolumn:name=AGE,type=date,JSONPath=`.metadata.creationTimestamp`,description="time since its creation"
// +kubebuilder:printcolumn:name=POOLS,type=integer,JSONPath=`.status.poolCount`,description="pools",priority=10
// +kubebuilder:printcolumn:name=FREE-IPV6,type=integer,JSONPath=`.status.freeIPv6Count`,description="free IPv6 addresses",priority=10
// +kubebuilder:printcolumn:name=REASON,type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="reason of the condition Ready",priority=10
// +kubebuilder:printcolumn:name=DEGRADED-REASON,type=string,JSONPath=`.status.conditions[?(@.type=="Degraded")].reason`,description="reason of the condition Degraded",priority=10
type SpiderCloudNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderCloudNetworkSpec   `json:"spec"`
	Status SpiderCloudNetworkStatus `json:"status,omitempty"`
}

// SpiderCloudNetworkList is a list of SpiderCloudNetworks.
//
// +kubebuilder:object:root=true
type SpiderCloudNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderCloudNetwork `json:"items"`
}
