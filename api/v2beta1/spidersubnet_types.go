package v2beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SpiderSubnetSpec lists the addresses for automatic pools.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion`,messageExpression=`(self.ipVersion == 4 ? "4" : "6") + " is not the IP version of subnet '" + self.subnet + "'; omit ipVersion"`,fieldPath=`.ipVersion`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() == cidr(self.subnet).ip().family()`,messageExpression=`"'" + self.gateway + "' has another IP version than subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() != cidr(self.subnet).ip().family() || cidr(self.subnet).containsIP(self.gateway)`,messageExpression=`"'" + self.gateway + "' is outside subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.ips`
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.excludeIPs`
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || self.routes.all(r, !isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.subnet).ip().family())`,messageExpression=`"'" + self.routes.map(r, isCIDR(r.dst) && cidr(r.dst).ip().family() != cidr(self.subnet).ip().family(), r.dst)[0] + "' has another IP version than subnet '" + self.subnet + "'; move the route to an object of its version"`,fieldPath=`.routes`
type SpiderSubnetSpec struct {
	// IPVersion is 4 or 6. The default is the IP version of subnet.
	// +optional
	// +kubebuilder:validation:Enum=4;6
	IPVersion *int64 `json:"ipVersion,omitempty"`

	// Subnet is the network of the addresses in CIDR notation without host bits,
	// e.g. "172.31.16.0/20". It is immutable.
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`"'" + self + "' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64'"`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`"'" + self + "' has host bits; write the network's first address, with zeros after the prefix"`
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self) && isCIDR(oldSelf) ? cidr(self) == cidr(oldSelf) : self == oldSelf`,messageExpression=`"'" + self + "' differs from '" + oldSelf + "', and subnet is immutable; create a new object for another network"`
	Subnet string `json:"subnet"`

	// IPs lists addresses ("172.31.28.16") or ranges ("172.31.28.16-172.31.28.31") inside subnet.
	// +optional
	IPs AddressRanges `json:"ips,omitempty"`

	// ExcludeIPs lists addresses or ranges inside subnet that no pool of this subnet hands out.
	// +optional
	ExcludeIPs AddressRanges `json:"excludeIPs,omitempty"`

	// Gateway is the default gateway, an address inside subnet.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`"'" + self + "' is not an IP address, such as '10.0.0.1' or 'fd00::1'"`
	Gateway *string `json:"gateway,omitempty"`

	// Routes are added to pods with an address of this subnet.
	// +optional
	Routes Routes `json:"routes,omitempty"`
}

// SpiderSubnetStatus summarizes the subnet's pools.
type SpiderSubnetStatus struct {
	// ControlledIPPools is a JSON object: pool → {"ips":[…],"application":"…"}.
	// +optional
	ControlledIPPools *string `json:"controlledIPPools,omitempty"`

	// TotalIPCount is the number of addresses that the subnet can give to pools.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TotalIPCount *int64 `json:"totalIPCount,omitempty"`

	// AllocatedIPCount is the number of addresses in the subnet's pools.
	// +kubebuilder:validation:Minimum=0
	// +optional
	AllocatedIPCount *int64 `json:"allocatedIPCount,omitempty"`

	// Conditions has the condition Ready: True if the subnet can be used as written.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SpiderSubnet is a set of addresses for automatic pools.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:categories={spiderpool},path=spidersubnets,scope=Cluster,shortName=ss,singular=spidersubnet
// +kubebuilder:printcolumn:name=VERSION,type=string,JSONPath=`.spec.ipVersion`,description="IP version"
// +kubebuilder:printcolumn:name=SUBNET,type=string,JSONPath=`.spec.subnet`,description="network of the addresses"
// +kubebuilder:printcolumn:name=ALLOCATED-IP-COUNT,type=integer,JSONPath=`.status.allocatedIPCount`,description="addresses in the subnet's pools"
// +kubebuilder:printcolumn:name=TOTAL-IP-COUNT,type=integer,JSONPath=`.status.totalIPCount`,description="addresses in total"
type SpiderSubnet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SpiderSubnetSpec   `json:"spec"`
	Status SpiderSubnetStatus `json:"status,omitempty"`
}

// SpiderSubnetList is a list of SpiderSubnets.
//
// +kubebuilder:object:root=true
type SpiderSubnetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SpiderSubnet `json:"items"`
}
