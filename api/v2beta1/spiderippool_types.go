package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderIPPoolSpec lists the addresses of a pool and selects the pods that may use them.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion`,messageExpression=`(self.ipVersion == 4 ? "4" : "6") + " is not the IP version of subnet '" + self.subnet + "'; omit ipVersion"`,fieldPath=`.ipVersion`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() == cidr(self.subnet).ip().family()`,messageExpression=`"'" + self.gateway + "' has another IP version than subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() != cidr(self.subnet).ip().family() || cidr(self.subnet).containsIP(self.gateway)`,messageExpression=`"'" + self.gateway + "' is outside subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.ips`
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.excludeIPs`
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || self.routes.all(r, !isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.subnet).ip().family())`,messageExpression=`"'" + self.routes.map(r, isCIDR(r.dst) && cidr(r.dst).ip().family() != cidr(self.subnet).ip().family(), r.dst)[0] + "' has another IP version than subnet '" + self.subnet + "'; move the route to an object of its version"`,fieldPath=`.routes`
type SpiderIPPoolSpec struct {
	// IPVersion is 4 or 6. The default is the IP version of subnet.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the pool's addresses in CIDR notation without host
	// bits, e.g. "172.31.16.0/20". It is immutable.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64'"`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`"'" + self + "' has host bits; write the network's first address, with zeros after the prefix"`
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self) && isCIDR(oldSelf) ? cidr(self) == cidr(oldSelf) : self == oldSelf`,messageExpression=`"'" + self + "' differs from '" + oldSelf + "', and subnet is immutable; create a new object for another network"`
	Subnet string `json:"subnet"`

	// IPs lists the pool's addresses inside subnet: single addresses
	// ("172.31.28.16") or ranges ("172.31.28.16-172.31.28.31").
	// +optional
	IPs AddressRanges `json:"ips,omitempty"`

	// ExcludeIPs lists addresses or ranges inside subnet that this pool never hands out.
	// +optional
	ExcludeIPs AddressRanges `json:"excludeIPs,omitempty"`

	// Gateway is the default gateway, an address inside subnet. No pod gets this address.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`"'" + self + "' is not an IP address, such as '10.0.0.1' or 'fd00::1'"`
	Gateway *string `json:"gateway,omitempty"`

	// Routes are added to pods with an address of this pool.
	// +optional
	Routes Routes `json:"routes,omitempty"`

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
