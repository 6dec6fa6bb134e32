package compile

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
)

// CompletePool sets the derived fields and reports whether it changed any: the
// IP version, the label for agents (names.LabelPoolNode) and the finalizer,
// unless the pool is being deleted. It does not change ranges; see
// CanonicalizePool.
//
// A node name that is longer than the value of a label can be does not bind the
// pool: every agent sees it, and spec.nodeName decides.
func CompletePool(in *v2beta1.SpiderIPPool) bool {
	changed := false
	if in.Spec.IPVersion == nil {
		if subnet, errs := compileSubnetPrefix(nil, in.Spec.Subnet); len(errs) == 0 {
			in.Spec.IPVersion = new(int64(inet.FamilyOf(subnet.Addr())))
			changed = true
		}
	}
	key, value, other := names.LabelPoolUnbound, "true", names.LabelPoolNode
	if len(in.Spec.NodeName) == 1 && len(validation.IsValidLabelValue(in.Spec.NodeName[0])) == 0 {
		key, value, other = names.LabelPoolNode, in.Spec.NodeName[0], names.LabelPoolUnbound
	}
	if in.Labels[key] != value {
		if in.Labels == nil {
			in.Labels = map[string]string{}
		}
		in.Labels[key] = value
		changed = true
	}
	if _, stale := in.Labels[other]; stale {
		delete(in.Labels, other)
		changed = true
	}
	if in.DeletionTimestamp == nil && !slices.Contains(in.Finalizers, v2beta1.Finalizer) {
		in.Finalizers = append(in.Finalizers, v2beta1.Finalizer)
		changed = true
	}
	return changed
}

// CanonicalizePool writes the networks and addresses of the resource in
// canonical form: IPv6 as RFC 5952 has it, ranges sorted and merged,
// destinations of routes masked. A field that does not compile is left as it is,
// for validation to report it as written.
func CanonicalizePool(in *v2beta1.SpiderIPPool) {
	canonicalizeSpace(&in.Spec.AddressSpace)
}

// CanonicalizeSubnet does for a SpiderSubnet what CanonicalizePool does, and
// sets the IP version.
func CanonicalizeSubnet(in *v2beta1.SpiderSubnet) {
	canonicalizeSpace(&in.Spec.AddressSpace)
	if subnet, errs := compileSubnetPrefix(nil, in.Spec.Subnet); len(errs) == 0 && in.Spec.IPVersion == nil {
		in.Spec.IPVersion = new(int64(inet.FamilyOf(subnet.Addr())))
	}
}

// CanonicalizeReservedIP sorts and merges the ranges and sets the IP version.
func CanonicalizeReservedIP(in *v2beta1.SpiderReservedIP) {
	set, errs := ReservedIP(in)
	if len(errs) > 0 {
		return
	}
	if first, ok := set.First(); ok {
		in.Spec.IPs = set.Strings()
		if in.Spec.IPVersion == nil {
			in.Spec.IPVersion = new(int64(inet.FamilyOf(first)))
		}
	}
}

func canonicalizeSpace(in *v2beta1.AddressSpace) {
	prefix, errs := compileSubnetPrefix(nil, in.Subnet)
	if len(errs) > 0 {
		return
	}
	in.Subnet = prefix.String()
	bounds := inet.Bounds{Subnet: prefix}
	for _, ranges := range []*v2beta1.AddressRanges{&in.IPs, &in.ExcludeIPs} {
		if set, errs := compileRanges(nil, *ranges, bounds); len(errs) == 0 && len(*ranges) > 0 {
			*ranges = set.Strings()
		}
	}
	if in.Gateway != nil {
		if addr, fault := inet.ParseAddr(*in.Gateway); fault == "" {
			*in.Gateway = addr.String()
		}
	}
	var routes v2beta1.Routes
	for _, written := range in.Routes {
		if route, err := inet.ParseRoute(written.Dst, written.Gw); err == nil {
			written = v2beta1.Route{Dst: route.Dst.String(), Gw: route.Via.String()}
		}
		if !slices.Contains(routes, written) {
			routes = append(routes, written)
		}
	}
	in.Routes = routes
}
