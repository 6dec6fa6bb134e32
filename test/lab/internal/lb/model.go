package lb

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Annotations and names that the AWS Load Balancer Controller defines
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

// balancer is one load balancer, without the addresses that it is served at.
type balancer struct {
	// key names it: "service/NAMESPACE/NAME", "ingress/NAMESPACE/NAME" or "group/NAME".
	key string
	// internetFacing and dualStack say which addresses it needs.
	internetFacing, dualStack bool
	// sourceRanges are the clients that it admits; empty: all.
	sourceRanges []netip.Prefix
	// forwards make it a network load balancer, rules an application load balancer, with one HTTP listener.
	forwards []forward
	rules    []rule
	// The objects that it serves, whose status names its addresses.
	service   *corev1.Service
	ingresses []*networkingv1.Ingress
}

// forward is a listener of a network load balancer.
type forward struct {
	protocol string // "tcp" or "udp", as netfilter and package net have it
	port     uint16
	targets  []netip.AddrPort
	// preserve keeps the client's address as the source; otherwise the target sees the load balancer's.
	preserve bool
}

// targetsOf returns the targets of the address family of addr.
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
	host    string // empty: any; "*.example.org": one label more
	path    string
	exact   bool // the path itself; otherwise the path and what is below it
	targets []netip.AddrPort
}

// matches reports whether a request is for the rule. The path of a prefix rule matches by whole elements.
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

// problem is something in an object that this load balancer cannot do, for an event.
type problem struct {
	object interface {
		GetNamespace() string
		GetName() string
	}
	message string
}
