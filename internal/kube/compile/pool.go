package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Pool returns the pool in canonical form. Use it only if there are no errors.
// It does not check for conflicts with other pools.
func Pool(in *v2beta1.SpiderIPPool) (pool.Pool, field.ErrorList) {
	spec := field.NewPath("spec")
	out, errs := compileSpace(in.Name, &in.Spec.AddressSpace)
	out.NamespaceNames, out.NodeNames, out.MultusNames = in.Spec.NamespaceName, in.Spec.NodeName, in.Spec.MultusName
	out.Default, out.Disabled = ptr.Deref(in.Spec.Default, false), ptr.Deref(in.Spec.Disable, false)
	out.Terminating = in.DeletionTimestamp != nil
	out.Assignable = assignable(in)
	out.Zone = in.Labels[names.LabelCloudZone]
	out.Foreign = ForeignAllocations(&in.Status)
	for _, affinity := range []struct {
		name string
		from *metav1.LabelSelector
		to   **pool.Selector
	}{
		{"podAffinity", in.Spec.PodAffinity, &out.PodAffinity},
		{"namespaceAffinity", in.Spec.NamespaceAffinity, &out.NamespaceAffinity},
		{"nodeAffinity", in.Spec.NodeAffinity, &out.NodeAffinity},
	} {
		selector, selectorErrs := compileSelector(spec.Child(affinity.name), affinity.from)
		*affinity.to = selector
		errs = append(errs, selectorErrs...)
	}
	errs = append(errs, checkNames(spec.Child("namespaceName"), in.Spec.NamespaceName, "a namespace", validation.IsDNS1123Label)...)
	errs = append(errs, checkNames(spec.Child("nodeName"), in.Spec.NodeName, "a node", validation.IsDNS1123Subdomain)...)
	errs = append(errs, checkNames(spec.Child("multusName"), in.Spec.MultusName, `a network attachment, "namespace/name" or "name"`, checkAttachmentName)...)
	return out, errs
}

// assignable returns the number in the annotation of a pool that follows a cloud, 0 for no or another one.
func assignable(in *v2beta1.SpiderIPPool) int64 {
	if owner := metav1.GetControllerOf(in); owner == nil || owner.Kind != "SpiderCloudNetwork" {
		return 0
	}
	n, err := strconv.ParseInt(in.Annotations[names.AnnotationPoolAssignable], 10, 64)
	if err != nil {
		return 0
	}
	return max(0, n)
}

// StoredPool returns the pool of a stored resource. An invalid one has no addresses, and
// the reason, which the events of pods quote.
func StoredPool(in *v2beta1.SpiderIPPool) *pool.Pool {
	compiled, errs := Pool(in)
	if len(errs) > 0 {
		compiled.Invalid, compiled.IPs = errs.ToAggregate().Error(), inet.Set{}
	}
	return &compiled
}

// Subnet returns the addresses and routes of the subnet as a pool without
// selectors. Use it only if there are no errors.
func Subnet(in *v2beta1.SpiderSubnet) (pool.Pool, field.ErrorList) {
	return compileSpace(in.Name, &in.Spec.AddressSpace)
}

// LinkLocal returns the fault of a link-local subnet with a gateway or routes: routers
// do not forward its packets. Pods of one link reach each other nevertheless, so it is
// a reason to refuse a new object, but not to stop using an old one.
func LinkLocal(p pool.Pool) field.ErrorList {
	if !inet.IsLinkLocal(p.Subnet) || !p.Gateway.IsValid() && len(p.Routes) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "subnet"), p.Subnet.String(),
		"is link-local, and no router forwards its packets; omit gateway and routes, or use another subnet")}
}

// ReservedIP returns the reserved addresses of all valid entries, also if there
// are errors in others.
func ReservedIP(in *v2beta1.SpiderReservedIP) (inet.Set, field.ErrorList) {
	spec := field.NewPath("spec")
	bounds := inet.Bounds{}
	if in.Spec.IPVersion != nil {
		bounds.Family = inet.Family(*in.Spec.IPVersion)
	}
	if bounds.Family != 0 && bounds.Family != 4 && bounds.Family != 6 {
		return inet.Set{}, field.ErrorList{field.Invalid(spec.Child("ipVersion"), bounds.Family, "is no IP version; write 4 or 6, or leave it out")}
	}
	return compileRanges(spec.Child("ips"), in.Spec.IPs, bounds)
}

func compileSpace(name string, in *v2beta1.AddressSpace) (pool.Pool, field.ErrorList) {
	spec, out := field.NewPath("spec"), pool.Pool{Name: name}
	subnet, errs := compileSubnetPrefix(spec.Child("subnet"), in.Subnet)
	if len(errs) > 0 {
		return out, errs // the other fields need a valid subnet
	}
	out.Family, out.Subnet = inet.FamilyOf(subnet.Addr()), subnet
	if in.IPVersion != nil && *in.IPVersion != int64(out.Family) {
		errs = append(errs, field.Invalid(spec.Child("ipVersion"), *in.IPVersion,
			fmt.Sprintf("spec.subnet %s is IPv%d; write %d or leave ipVersion out", subnet, out.Family, out.Family)))
	}
	bounds := inet.Bounds{Family: out.Family, Subnet: subnet}
	var more field.ErrorList
	out.IPs, more = compileRanges(spec.Child("ips"), in.IPs, bounds)
	errs = append(errs, more...)
	out.Exclude, more = compileRanges(spec.Child("excludeIPs"), in.ExcludeIPs, bounds)
	errs = append(errs, more...)
	if in.Gateway != nil {
		out.Gateway, more = compileGateway(spec.Child("gateway"), *in.Gateway, subnet)
		errs = append(errs, more...)
	}
	out.Routes, more = compileRoutes(spec.Child("routes"), in.Routes, subnet)
	return out, append(errs, more...)
}

func compileSubnetPrefix(path *field.Path, value string) (netip.Prefix, field.ErrorList) {
	if value == "" {
		return netip.Prefix{}, field.ErrorList{field.Required(path, `write the network of the addresses in CIDR notation, e.g. "10.0.0.0/16" or "fd00::/64"`)}
	}
	prefix, err := netip.ParsePrefix(value)
	switch {
	case err != nil:
		return prefix, field.ErrorList{field.Invalid(path, value, `is not a network in CIDR notation, such as "10.0.0.0/16" or "fd00::/64"`)}
	case prefix.Addr().Is4In6():
		return prefix, field.ErrorList{field.Invalid(path, value, "is an IPv4 network in IPv6 form; write it as IPv4")}
	case prefix != prefix.Masked():
		return prefix, field.ErrorList{field.Invalid(path, value, fmt.Sprintf("has host bits; the network is %s", prefix.Masked()))}
	}
	if fault := inet.SubnetFault(prefix); fault != "" {
		return prefix, field.ErrorList{field.Invalid(path, value, fault)}
	}
	return prefix, nil
}

func compileRanges(path *field.Path, entries []string, bounds inet.Bounds) (inet.Set, field.ErrorList) {
	set, err := inet.Parse(entries, bounds)
	if err == nil {
		return set, nil
	}
	var refused inet.RangeErrors
	if !errors.As(err, &refused) {
		return set, field.ErrorList{field.Invalid(path, entries, err.Error())}
	}
	var errs field.ErrorList
	for _, e := range refused {
		errs = append(errs, field.Invalid(path.Index(e.Index), e.Value, e.Reason))
	}
	return set, errs
}

func compileGateway(path *field.Path, value string, subnet netip.Prefix) (netip.Addr, field.ErrorList) {
	gateway, fault := inet.ParseAddr(value)
	if want := inet.FamilyOf(subnet.Addr()); fault == "" && inet.FamilyOf(gateway) != want {
		fault = fmt.Sprintf("is IPv%d, but spec.subnet %s is IPv%d; write a gateway inside the subnet", inet.FamilyOf(gateway), subnet, want)
	}
	if fault == "" && !subnet.Contains(gateway) {
		fault = fmt.Sprintf("is outside spec.subnet %s; write a gateway inside the subnet", subnet)
	}
	if fault == "" {
		fault = inet.NextHopFault(gateway, subnet)
	}
	if fault != "" {
		return gateway, field.ErrorList{field.Invalid(path, value, fault)}
	}
	return gateway, nil
}

// compileRoutes returns the routes without host bits and repetitions. Earlier
// versions accepted both.
func compileRoutes(path *field.Path, in []v2beta1.Route, subnet netip.Prefix) ([]inet.Route, field.ErrorList) {
	var out []inet.Route
	var errs field.ErrorList
	for i, written := range in {
		at := path.Index(i)
		route, err := inet.ParseRoute(written.Dst, written.Gw)
		var fault *inet.RouteError
		if errors.As(err, &fault) {
			errs = append(errs, field.Invalid(at.Child(fault.Key), fault.Value, fault.Reason))
		} else if got, want := inet.FamilyOf(route.Via), inet.FamilyOf(subnet.Addr()); got != want {
			errs = append(errs, field.Invalid(at.Child("dst"), written.Dst, fmt.Sprintf("is IPv%d, but spec.subnet is IPv%d; put the route into a pool of its version", got, want)))
		} else if reason := inet.NextHopFault(route.Via, subnet); reason != "" {
			errs = append(errs, field.Invalid(at.Child("gw"), written.Gw, reason))
		} else {
			out = append(out, route)
		}
	}
	return inet.MergeRoutes(nil, out), errs
}

func compileSelector(path *field.Path, in *metav1.LabelSelector) (*pool.Selector, field.ErrorList) {
	if in == nil {
		return nil, nil
	}
	if errs := metav1validation.ValidateLabelSelector(in, metav1validation.LabelSelectorValidationOptions{}, path); len(errs) > 0 {
		return nil, errs
	}
	out := &pool.Selector{MatchLabels: in.MatchLabels}
	for _, e := range in.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, pool.Requirement{Key: e.Key, Operator: pool.Operator(e.Operator), Values: e.Values})
	}
	return out, nil
}

// checkNames returns an error for each entry that check refuses. what is the
// kind of the entries.
func checkNames(path *field.Path, names []string, what string, check func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		if faults := check(name); len(faults) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("is not the name of %s: %s", what, strings.Join(faults, "; "))))
		}
	}
	return errs
}

func checkAttachmentName(name string) []string {
	namespace, rest, qualified := strings.Cut(name, "/")
	if !qualified {
		return validation.IsDNS1123Subdomain(name)
	}
	return append(validation.IsDNS1123Label(namespace), validation.IsDNS1123Subdomain(rest)...)
}
