package lb

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Annotations and names defined by the AWS Load Balancer Controller
// (https://kubernetes-sigs.github.io/aws-load-balancer-controller/v2.6/guide/).
const (
	nlbPrefix       = "service.beta.kubernetes.io/aws-load-balancer-"
	nlbTargetType   = nlbPrefix + "nlb-target-type"
	nlbScheme       = nlbPrefix + "scheme"
	nlbAttributes   = nlbPrefix + "target-group-attributes"
	nlbAddressType  = nlbPrefix + "ip-address-type"
	nlbSourceRanges = "service.beta.kubernetes.io/load-balancer-source-ranges"
	nlbClass        = "service.k8s.aws/nlb"

	albPrefix      = "alb.ingress.kubernetes.io/"
	albTargetType  = albPrefix + "target-type"
	albScheme      = albPrefix + "scheme"
	albAddressType = albPrefix + "ip-address-type"
	albInbound     = albPrefix + "inbound-cidrs"
	albGroup       = albPrefix + "group.name"
	albClass       = "alb"

	targetTypeIP         = "ip"
	schemeInternetFacing = "internet-facing"
	schemeInternal       = "internal"
	addressTypeIPv4      = "ipv4"
	addressTypeDualStack = "dualstack"
	preserveClientIP     = "preserve_client_ip.enabled"
)

// balancer is one load balancer, without its addresses.
type balancer struct {
	// key identifies it: "service/NAMESPACE/NAME", "ingress/NAMESPACE/NAME" or "group/NAME".
	key string
	// internetFacing and dualStack decide which addresses it needs.
	internetFacing, dualStack bool
	// sourceRanges are the admitted clients; empty admits all.
	sourceRanges []netip.Prefix
	// A network load balancer has forwards. An application load balancer has rules, for one HTTP listener.
	forwards []forward
	rules    []rule
	// The served objects. Their status gets the addresses.
	service   *corev1.Service
	ingresses []*networkingv1.Ingress
}

// forward is a listener of a network load balancer.
type forward struct {
	protocol string // "tcp" or "udp", as in netfilter and package net
	port     uint16
	targets  []netip.AddrPort
	// preserve keeps the client's source address; otherwise the target sees the load balancer's.
	preserve bool
}

// targetsOf returns the targets in the address family of addr.
func (f forward) targetsOf(addr netip.Addr) []netip.AddrPort {
	var targets []netip.AddrPort
	for _, target := range f.targets {
		if target.Addr().Is4() == addr.Is4() {
			targets = append(targets, target)
		}
	}
	return targets
}

// rule sends requests of an application load balancer to a target group.
type rule struct {
	host    string // "" matches any host; "*.example.org" matches one more label
	path    string
	exact   bool // match only the path itself, not paths below it
	targets []netip.AddrPort
}

// matches reports whether the rule applies to the request. Prefixes match whole path elements.
func (r rule) matches(host, path string) bool {
	if r.host != "" && !strings.EqualFold(r.host, host) {
		_, parent, found := strings.Cut(host, ".")
		suffix, wildcard := strings.CutPrefix(r.host, "*.")
		if !wildcard || !found || !strings.EqualFold(suffix, parent) {
			return false
		}
	}
	if r.exact {
		return path == r.path
	}
	prefix := strings.TrimSuffix(r.path, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// problem is an unsupported setting of an object, reported as an event.
type problem struct {
	object interface {
		GetNamespace() string
		GetName() string
	}
	message string
}
