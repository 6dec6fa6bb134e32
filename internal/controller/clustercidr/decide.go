package clustercidr

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// origin is where networks were found, as it is called in messages, and what it
// says, or why it could not be read.
type origin struct {
	name     string
	networks []string
	err      error
}

// facts is what the cluster says about its networks.
type facts struct {
	// services are the sources of ClusterIP networks, the best first.
	services []origin
	// cluster are the sources of the pod networks of Kubernetes itself, the best first.
	cluster []origin
	// calico and cilium are nil where the cluster has no such network.
	calico, cilium *origin
}

// findings is the status that follows from the facts.
type findings struct {
	overlayPodCIDR, serviceCIDR []string
	source                      string // of overlayPodCIDR
	missing                     string // why this is not all; empty when it is
	err                         error  // of reading what was needed; part of missing
	invalid                     string // what of the specification cannot be used; empty when all can
}

// decide finds the networks of services and of overlay pods.
func decide(kind v2beta1.PodCIDRType, f facts) findings {
	var out findings
	var problems []string
	services, err := firstOf(f.services)
	if err != nil {
		problems = append(problems, "serviceCIDR: "+err.Error())
	}
	out.serviceCIDR = services.networks
	pods, err := podNetworks(kind, f)
	if err != nil {
		problems = append(problems, "overlayPodCIDR: "+err.Error())
	}
	out.overlayPodCIDR, out.source = pods.networks, pods.name
	out.missing = strings.Join(problems, "; ")
	out.err = errors.Join(services.err, pods.err)
	return out
}

func podNetworks(kind v2beta1.PodCIDRType, f facts) (origin, error) {
	switch kind {
	case v2beta1.PodCIDRNone:
		return origin{name: "spec.podCIDRType none"}, nil
	case v2beta1.PodCIDRCluster:
		return firstOf(f.cluster)
	case v2beta1.PodCIDRCalico:
		if f.calico == nil {
			return origin{}, fmt.Errorf("spec.podCIDRType is calico, but the cluster has no IPPool of crd.projectcalico.org; write auto, cluster or none")
		}
		return named(kind, *f.calico)
	case v2beta1.PodCIDRCilium:
		if f.cilium == nil {
			return origin{}, fmt.Errorf("spec.podCIDRType is cilium, but the cluster has no ConfigMap of Cilium; write auto, cluster or none")
		}
		return named(kind, *f.cilium)
	}
	// auto: the network that is there. One that cannot be read may be it.
	for _, overlay := range []*origin{f.calico, f.cilium} {
		if overlay != nil && (len(overlay.networks) > 0 || overlay.err != nil) {
			return canonical(*overlay)
		}
	}
	found, err := firstOf(f.cluster)
	if err == nil || found.err != nil {
		return found, err
	}
	// A cluster need not have an overlay network.
	return origin{name: "no overlay network found"}, nil
}

// named returns the networks of an overlay network that was asked for.
func named(kind v2beta1.PodCIDRType, s origin) (origin, error) {
	if s.err == nil && len(s.networks) == 0 {
		return origin{}, fmt.Errorf("spec.podCIDRType is %s, but no network is in use by: %s; write auto, cluster or none", kind, s.name)
	}
	return canonical(s)
}

// firstOf returns the first source that says anything. What comes behind one
// that could not be read is not looked at: it may say something else.
func firstOf(sources []origin) (origin, error) {
	var tried []string
	for _, s := range sources {
		if len(s.networks) > 0 || s.err != nil {
			return canonical(s)
		}
		tried = append(tried, s.name)
	}
	return origin{}, fmt.Errorf("found in none of: %s", strings.Join(tried, ", "))
}

// canonical returns the networks masked, merged and sorted, IPv4 first. The
// origin that it returns with the error of reading it carries that error.
func canonical(s origin) (origin, error) {
	if s.err != nil {
		return origin{err: s.err}, fmt.Errorf("%s cannot be read: %w", s.name, s.err)
	}
	var builder netipx.IPSetBuilder
	for _, text := range s.networks {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return origin{}, fmt.Errorf("%s says %q, which is not a network in CIDR notation", s.name, text)
		}
		builder.AddPrefix(prefix.Masked())
	}
	set, err := builder.IPSet()
	if err != nil {
		return origin{}, fmt.Errorf("%s: %w", s.name, err)
	}
	prefixes := set.Prefixes()
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	out := origin{name: s.name}
	for _, p := range prefixes {
		out.networks = append(out.networks, p.String())
	}
	return out, nil
}
