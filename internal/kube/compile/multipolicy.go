package compile

import (
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
)

// maxPolicyNetworks bounds the networks of a MultiNetworkPolicy, and with them the work for each of its peers.
const maxPolicyNetworks = 64

// MultiNetworkPolicy returns a MultiNetworkPolicy as rules. Without a network, they have no effect. The errors name the
// invalid parts. Those of the spec fail closed as in NetworkPolicy; an invalid name of a network selects nothing.
func MultiNetworkPolicy(object *multipolicy.MultiNetworkPolicy) (*policy.Policy, field.ErrorList) {
	networks, errs := policyNetworks(object)
	p, more := NetworkPolicy(&networkingv1.NetworkPolicy{ObjectMeta: object.ObjectMeta, Spec: object.Spec})
	p.Name.Multi, p.Networks = true, networks
	return p, append(errs, more...)
}

// policyNetworks returns the networks in the annotation policy-for, sorted.
func policyNetworks(object *multipolicy.MultiNetworkPolicy) (networks []policy.Name, errs field.ErrorList) {
	path := field.NewPath("metadata", "annotations").Key(names.AnnotationPolicyFor)
	value := object.Annotations[names.AnnotationPolicyFor]
	if strings.TrimSpace(value) == "" {
		return nil, field.ErrorList{field.Required(path, `name the NetworkAttachmentDefinitions of the policy, e.g. "net-a,ns/net-b"`)}
	}
	items := strings.Split(value, ",")
	if len(items) > maxPolicyNetworks {
		errs = append(errs, field.TooMany(path, len(items), maxPolicyNetworks))
		items = items[:maxPolicyNetworks]
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		namespace, name, ok := strings.Cut(item, "/")
		if !ok {
			namespace, name = object.Namespace, item
		}
		if len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, field.Invalid(path, item, "write [namespace/]name of a NetworkAttachmentDefinition"))
			continue
		}
		networks = append(networks, policy.Name{Namespace: namespace, Name: name})
	}
	slices.SortFunc(networks, policy.Name.Compare)
	return slices.Compact(networks), errs
}

// AddPolicyInterfaces adds the interfaces of the pod's SpiderEndpoint: that with the UID of the pod, which has the name of a virtual
// machine if there is one. The addresses of the default interface count before the status of the pod shows them.
func AddPolicyInterfaces(pod *policy.Pod, endpoint *v2beta1.SpiderEndpoint) {
	for i := range endpoint.Status.Current.IPs {
		ip := &endpoint.Status.Current.IPs[i]
		out := policy.Interface{Name: ip.Interface, Default: ip.Interface == pool.FirstInterface}
		if namespace, name, ok := strings.Cut(ip.Network, "/"); ok {
			out.Network = policy.Name{Namespace: namespace, Name: name}
		}
		for _, text := range []*string{ip.IPv4, ip.IPv6} {
			if prefix, err := netip.ParsePrefix(ptr.Deref(text, "")); err == nil {
				out.Addrs = append(out.Addrs, prefix.Addr())
			}
		}
		pod.Interfaces = append(pod.Interfaces, out)
		if out.Default && len(pod.Addrs) == 0 {
			pod.Addrs = out.Addrs
		}
	}
}
