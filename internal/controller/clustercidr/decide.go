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

// origin is a source of networks: its name in messages, and its networks or the
// error of reading it.
type origin struct {
	name     string
	networks []string
	err      error
}

// facts are the sources of networks in the cluster.
type facts struct {
	// services are the sources for the networks of Services, the best first.
	services []origin
	// cluster are the sources for the pod networks of Kubernetes itself, the best first.
	cluster []origin
	// calico and cilium are nil if the cluster has no such overlay network.
	calico, cilium *origin
	// given are the pod networks in the specification; nil: none.
	given *origin
}

// with returns the facts with the networks in the specification, which come before all
// others.
func (f facts) with(spec *v2beta1.CoordinatorSpec) facts {
	if len(spec.ServiceCIDR) > 0 {
		f.services = []origin{{name: "spec.serviceCIDR", networks: spec.ServiceCIDR}}
	}
	if len(spec.OverlayPodCIDR) > 0 {
		f.given = &origin{name: "spec.overlayPodCIDR", networks: spec.OverlayPodCIDR}
	}
	return f
}

// findings are the result of decide, for the status.
type findings struct {
	overlayPodCIDR, serviceCIDR []string
	source                      string // of overlayPodCIDR
	missing                     string // the networks without a source; empty if all are known
	err                         error  // a source that cannot be read; missing contains its text
	invalid                     string // faults of the specification; empty if there are none
}

// decide chooses the networks of Services and of overlay pods.
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
	if f.given != nil {
		return canonical(*f.given)
	}
	switch kind {
	case v2beta1.PodCIDRNone:
		return origin{name: "spec.podCIDRType none"}, nil
	case v2beta1.PodCIDRCluster:
		return firstOf(f.cluster)
	case v2beta1.PodCIDRCalico:
		if f.calico == nil {
			return origin{}, fmt.Errorf("spec.podCIDRType is calico, but the cluster has no IPPool of crd.projectcalico.org; use auto, cluster or none")
		}
		return chosen(kind, *f.calico)
	case v2beta1.PodCIDRCilium:
		if f.cilium == nil {
			return origin{}, fmt.Errorf("spec.podCIDRType is cilium, but the cluster has no ConfigMap of Cilium; use auto, cluster or none")
		}
		return chosen(kind, *f.cilium)
	}
	// auto: use the overlay network of the cluster. If it cannot be read, report that
	// instead of trying the next source.
	var overlays []*origin
	for _, overlay := range []*origin{f.calico, f.cilium} {
		if overlay != nil && (len(overlay.networks) > 0 || overlay.err != nil) {
			overlays = append(overlays, overlay)
		}
	}
	if len(overlays) > 0 {
		found, err := canonical(*overlays[0])
		if len(overlays) > 1 && err == nil {
			found.name += fmt.Sprintf("; the cluster has %s, too: if the pods use that, set spec.podCIDRType", overlays[1].name)
		}
		return found, err
	}
	found, err := firstOf(f.cluster)
	if err == nil || found.err != nil {
		return found, err
	}
	// A cluster without an overlay network is fine.
	return origin{name: "no overlay network found"}, nil
}

// chosen returns the networks of the overlay network in spec.podCIDRType.
func chosen(kind v2beta1.PodCIDRType, s origin) (origin, error) {
	if s.err == nil && len(s.networks) == 0 {
		return origin{}, fmt.Errorf("spec.podCIDRType is %s, but this source has no network: %s; use auto, cluster or none", kind, s.name)
	}
	return canonical(s)
}

// firstOf returns the first source with networks. It stops at a source that cannot
// be read: that source may contradict the ones after it.
func firstOf(sources []origin) (origin, error) {
	var tried []string
	for _, s := range sources {
		if len(s.networks) > 0 || s.err != nil {
			return canonical(s)
		}
		tried = append(tried, s.name)
	}
	return origin{}, fmt.Errorf("not found in any of: %s (or set the field in spec)", strings.Join(tried, ", "))
}

// canonical returns the networks masked, merged and sorted, IPv4 first. If the source
// cannot be read, the returned origin carries its error.
func canonical(s origin) (origin, error) {
	if s.err != nil {
		return origin{err: s.err}, fmt.Errorf("%s cannot be read: %w", s.name, s.err)
	}
	var builder netipx.IPSetBuilder
	for _, text := range s.networks {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return origin{}, fmt.Errorf("%s has %q, which is not a network in CIDR notation (e.g. 10.0.0.0/8)", s.name, text)
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
