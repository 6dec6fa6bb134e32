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
	// Dst is the destination network in CIDR notation, e.g. "10.0.0.0/8".
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
