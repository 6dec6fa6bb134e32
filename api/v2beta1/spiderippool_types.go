package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderIPPoolSpec says which addresses a pool holds and who may use them.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion`,messageExpression=`(self.ipVersion == 4 ? "4" : "6") + " is not the IP version of subnet '" + self.subnet + "'; leave ipVersion out"`,fieldPath=`.ipVersion`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() == cidr(self.subnet).ip().family()`,messageExpression=`"'" + self.gateway + "' is not of the IP version of subnet '" + self.subnet + "'; write a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() != cidr(self.subnet).ip().family() || cidr(self.subnet).containsIP(self.gateway)`,messageExpression=`"'" + self.gateway + "' is outside subnet '" + self.subnet + "'; write a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; write addresses of the subnet"`,fieldPath=`.ips`
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; write addresses of the subnet"`,fieldPath=`.excludeIPs`
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || self.routes.all(r, !isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.subnet).ip().family())`,messageExpression=`"'" + self.routes.map(r, isCIDR(r.dst) && cidr(r.dst).ip().family() != cidr(self.subnet).ip().family(), r.dst)[0] + "' is not of the IP version of subnet '" + self.subnet + "'; put the route into an object of its version"`,fieldPath=`.routes`
type SpiderIPPoolSpec struct {
	// IPVersion is 4 or 6; left out, it is the version of subnet.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the pool's addresses in CIDR notation, without host bits.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation; write one as '10.0.0.0/8' or 'fd00::/64'"`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`"'" + self + "' has host bits; write the first address of the network, with zeros behind the prefix"`
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self) && isCIDR(oldSelf) ? cidr(self) == cidr(oldSelf) : self == oldSelf`,messageExpression=`"'" + self + "' is not the network '" + oldSelf + "' of this object, which does not change; make a new object for another network"`
	Subnet string `json:"subnet"`

	// IPs are the addresses to hand out: single addresses ("172.31.28.16") or
	// ranges ("172.31.28.16-172.31.28.31"), inside subnet.
	// +optional
	IPs AddressRanges `json:"ips,omitempty"`

	// ExcludeIPs are addresses or ranges that are never handed out from this pool.
	// +optional
	ExcludeIPs AddressRanges `json:"excludeIPs,omitempty"`

	// Gateway is the address of the default gateway, inside subnet; it is never handed out.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`"'" + self + "' is not an IP address; write one as '10.0.0.1' or 'fd00::1'"`
	Gateway *string `json:"gateway,omitempty"`

	// Routes are added to pods that get an address from this pool.
	// +optional
	Routes Routes `json:"routes,omitempty"`

	// PodAffinity selects the pods that may use the pool by their labels.
	// +optional
	PodAffinity *metav1.LabelSelector `json:"podAffinity,omitempty"`

	// NamespaceAffinity selects the namespaces that may use the pool by their
	// labels; ignored where namespaceName is set.
	// +optional
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`

	// NamespaceName lists the namespaces that may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not the name of a namespace; write a name as metadata.name has it"`
	NamespaceName []string `json:"namespaceName,omitempty"`

	// NodeAffinity selects the nodes that may use the pool by their labels;
	// ignored where nodeName is set.
	// +optional
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`

	// NodeName lists the nodes that may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=5000
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not the name of a node; write a name as metadata.name has it"`
	NodeName []string `json:"nodeName,omitempty"`

	// MultusName lists the network attachments ("namespace/name" or "name")
	// whose interfaces may use the pool.
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=317
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')`,messageExpression=`"'" + self + "' is not the name of a network attachment; write 'namespace/name' or 'name'"`
	MultusName []string `json:"multusName,omitempty"`

	// Default makes the pool a candidate for pods that name no pool.
	// +kubebuilder:default=false
	// +optional
	Default *bool `json:"default,omitempty"`

	// Disable stops the pool from handing out addresses; those in use stay.
	// +kubebuilder:default=false
	// +optional
	Disable *bool `json:"disable,omitempty"`
}

// SpiderIPPoolStatus is a view of the pool's leases, which are kept in SpiderIPBlocks.
type SpiderIPPoolStatus struct {
	// AllocatedIPs is a JSON object: address → {"pod":"namespace/name","podUid":"…"}.
	// +optional
	AllocatedIPs *string `json:"allocatedIPs,omitempty"`

	// TotalIPCount is the number of addresses that the pool may hand out.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is the number of addresses in use.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Conditions: Ready says whether the pool can be used as written.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderIPPool is a set of addresses of one subnet, and who may use them.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spiderippools,scope=Cluster,shortName=sp,singular=spiderippool
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=SUBNET,type=string,JSONPath=`.spec.subnet`,description="network of the addresses"
// +kubebuilder:printcolumn:name=ALLOCATED-IP-COUNT,type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses in use"
// +kubebuilder:printcolumn:name=TOTAL-IP-COUNT,type=integer,JSONPath=`.status.totalIPCount`,description="addresses in all"
// +kubebuilder:printcolumn:name=DEFAULT,type=boolean,JSONPath=`.spec.default`,description="used by pods that name no pool"
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
