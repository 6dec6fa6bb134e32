package v2beta1

// AddressRanges is a list of addresses ("172.31.28.16") and ranges
// ("172.31.28.16-172.31.28.31", both ends included).
//
// +kubebuilder:validation:MaxItems=4096
// +kubebuilder:validation:items:MaxLength=80
// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 3).size() <= 2 && self.split('-', 3).all(a, isIP(a))`,messageExpression=`"'" + self + "' is not an address or a range, such as '10.0.0.1' or '10.0.0.1-10.0.0.9'"`
// +kubebuilder:validation:items:XValidation:rule=`!self.split('-', 2).all(a, isIP(a)) || self.split('-', 2).all(a, ip(a).family() == ip(self.split('-', 2)[0]).family())`,messageExpression=`"'" + self + "' mixes IP versions; use IPv4 at both ends of a range, or IPv6 at both"`
type AddressRanges []string

// Route is a route of a pod.
type Route struct {
	// Dst is the destination network in CIDR notation, e.g. "10.0.0.0/8". In
	// policyRoutes of a coordinator, it can also be an address.
	// +kubebuilder:validation:MaxLength=64
	Dst string `json:"dst"`

	// Gw is the address of the next hop, e.g. "172.31.16.1". It has the IP version of dst.
	// +kubebuilder:validation:MaxLength=64
	Gw string `json:"gw"`
}

// Routes are the routes that a user configures. Unlike a Route in a status, they are validated.
//
// +kubebuilder:validation:MaxItems=1024
// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self.dst)`,messageExpression=`"'" + self.dst + "' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64'"`,fieldPath=`.dst`
// +kubebuilder:validation:items:XValidation:rule=`isIP(self.gw)`,messageExpression=`"'" + self.gw + "' is not an IP address, such as '10.0.0.1' or 'fd00::1'"`,fieldPath=`.gw`
// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self.dst) || !isIP(self.gw) || cidr(self.dst).ip().family() == ip(self.gw).family()`,messageExpression=`"'" + self.gw + "' has another IP version than dst '" + self.dst + "'; use a next hop of that version"`,fieldPath=`.gw`
type Routes []Route

// PolicyRoutes are the routes of a coordinator. Unlike in a pool, dst may be an address.
//
// +kubebuilder:validation:MaxItems=1024
// +kubebuilder:validation:items:XValidation:rule=`isCIDR(self.dst) || isIP(self.dst)`,messageExpression=`"'" + self.dst + "' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64', or an address"`,fieldPath=`.dst`
// +kubebuilder:validation:items:XValidation:rule=`isIP(self.gw)`,messageExpression=`"'" + self.gw + "' is not an IP address, such as '10.0.0.1' or 'fd00::1'"`,fieldPath=`.gw`
// +kubebuilder:validation:items:XValidation:rule=`!(isCIDR(self.dst) || isIP(self.dst)) || !isIP(self.gw) || (isIP(self.dst) ? ip(self.dst) : cidr(self.dst).ip()).family() == ip(self.gw).family()`,messageExpression=`"'" + self.gw + "' has another IP version than dst '" + self.dst + "'; use a next hop of that version"`,fieldPath=`.gw`
type PolicyRoutes []Route

// AddressSpace holds the addresses and routes of a SpiderIPPool or SpiderSubnet.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion`,messageExpression=`(self.ipVersion == 4 ? "4" : "6") + " is not the IP version of subnet '" + self.subnet + "'; omit ipVersion"`,fieldPath=`.ipVersion`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() == cidr(self.subnet).ip().family()`,messageExpression=`"'" + self.gateway + "' has another IP version than subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isCIDR(self.subnet) || !isIP(self.gateway) || ip(self.gateway).family() != cidr(self.subnet).ip().family() || cidr(self.subnet).containsIP(self.gateway)`,messageExpression=`"'" + self.gateway + "' is outside subnet '" + self.subnet + "'; use a gateway inside the subnet"`,fieldPath=`.gateway`
// +kubebuilder:validation:XValidation:rule=`!has(self.ips) || !isCIDR(self.subnet) || self.ips.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.ips.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.ips`
// +kubebuilder:validation:XValidation:rule=`!has(self.excludeIPs) || !isCIDR(self.subnet) || self.excludeIPs.all(r, r.split('-', 2).all(a, !isIP(a) || cidr(self.subnet).containsIP(a)))`,messageExpression=`"'" + self.excludeIPs.filter(r, r.split('-', 2).exists(a, isIP(a) && !cidr(self.subnet).containsIP(a)))[0] + "' is outside subnet '" + self.subnet + "'; use addresses of the subnet"`,fieldPath=`.excludeIPs`
// +kubebuilder:validation:XValidation:rule=`!has(self.routes) || !isCIDR(self.subnet) || self.routes.all(r, !isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.subnet).ip().family())`,messageExpression=`"'" + self.routes.map(r, isCIDR(r.dst) && cidr(r.dst).ip().family() != cidr(self.subnet).ip().family(), r.dst)[0] + "' has another IP version than subnet '" + self.subnet + "'; move the route to an object of its version"`,fieldPath=`.routes`
type AddressSpace struct {
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

	// ExcludeIPs lists addresses or ranges inside subnet that no pod gets from this object.
	// +optional
	ExcludeIPs AddressRanges `json:"excludeIPs,omitempty"`

	// Gateway is the default gateway, an address inside subnet. No pod gets this
	// address, from whatever pool of the subnet.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`"'" + self + "' is not an IP address, such as '10.0.0.1' or 'fd00::1'"`
	Gateway *string `json:"gateway,omitempty"`

	// Routes are added to pods with an address of this object. A next hop is an address
	// inside subnet that no pod gets from this object, or an IPv6 link-local address.
	// +optional
	Routes Routes `json:"routes,omitempty"`
}
