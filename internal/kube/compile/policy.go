package compile

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/internal/policy"
)

// NetworkPolicy returns a NetworkPolicy as rules. The errors name the parts that this release does not understand, which
// fail closed: an invalid peer or port matches nothing, and a policy with an invalid podSelector or policyTypes isolates
// all pods that it may select and, with an invalid podSelector, allows nothing.
func NetworkPolicy(object *networkingv1.NetworkPolicy) (*policy.Policy, field.ErrorList) {
	var errs field.ErrorList
	spec, path := &object.Spec, field.NewPath("spec")
	p := &policy.Policy{Name: policy.Name{Namespace: object.Namespace, Name: object.Name}}
	var known bool
	p.Pods, known = labelSelector(&spec.PodSelector, path.Child("podSelector"), &errs)
	for i, rule := range spec.Ingress {
		p.Ingress.Rules = append(p.Ingress.Rules, policyRule(rule.From, rule.Ports, path.Child("ingress").Index(i), "from", &errs))
	}
	for i, rule := range spec.Egress {
		p.Egress.Rules = append(p.Egress.Rules, policyRule(rule.To, rule.Ports, path.Child("egress").Index(i), "to", &errs))
	}
	if !known || !bounded(p, path, &errs) {
		p.Ingress.Rules, p.Egress.Rules = nil, nil
	}
	setIsolation(p, spec, path.Child("policyTypes"), &errs)
	return p, errs
}

// Limits of one NetworkPolicy. Its author decides how much work the controller and the agents have with it.
const (
	maxPolicyRules  = 1000
	maxPolicyGroups = 100 // pairs of selectors
)

// bounded reports whether a policy is within the limits. One beyond them allows nothing, like one with an unknown selector.
func bounded(p *policy.Policy, path *field.Path, errs *field.ErrorList) bool {
	if n := len(p.Ingress.Rules) + len(p.Egress.Rules); n > maxPolicyRules {
		*errs = append(*errs, field.Forbidden(path, fmt.Sprintf("%d rules; write policies with at most %d rules", n, maxPolicyRules)))
		return false
	}
	all := *p
	all.Ingress.Isolates, all.Egress.Isolates = true, true
	if n := len(all.Groups()); n > maxPolicyGroups {
		*errs = append(*errs, field.Forbidden(path, fmt.Sprintf("%d pairs of selectors; write policies with at most %d pairs of selectors", n, maxPolicyGroups)))
		return false
	}
	return true
}

// setIsolation sets the directions. The defaults are in the API documentation of policyTypes.
func setIsolation(p *policy.Policy, spec *networkingv1.NetworkPolicySpec, path *field.Path, errs *field.ErrorList) {
	if len(spec.PolicyTypes) == 0 {
		p.Ingress.Isolates, p.Egress.Isolates = true, len(spec.Egress) > 0
	}
	for i, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.Ingress.Isolates = true
		case networkingv1.PolicyTypeEgress:
			p.Egress.Isolates = true
		default:
			p.Ingress.Isolates, p.Egress.Isolates = true, true
			*errs = append(*errs, field.NotSupported(path.Index(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}))
		}
	}
}

// policyRule compiles a rule; key is that of the peers, "from" or "to".
func policyRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, path *field.Path, key string, errs *field.ErrorList) policy.Rule {
	rule := policy.Rule{AnyPeer: len(peers) == 0, AnyPort: len(ports) == 0}
	for i := range peers {
		rule.Peers = append(rule.Peers, policyPeer(&peers[i], path.Child(key).Index(i), errs))
	}
	for i := range ports {
		rule.Ports = append(rule.Ports, policyPort(&ports[i], path.Child("ports").Index(i), errs))
	}
	return rule
}

// policyPeer returns the zero peer, which matches nothing, for an invalid one.
func policyPeer(peer *networkingv1.NetworkPolicyPeer, path *field.Path, errs *field.ErrorList) policy.Peer {
	var compiled policy.Peer
	selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
	valid := true
	switch {
	case peer.IPBlock != nil && selects:
		*errs = append(*errs, field.Forbidden(path, "ipBlock excludes podSelector and namespaceSelector; write two peers"))
		return policy.Peer{}
	case peer.IPBlock != nil:
		compiled.Block = policyBlock(peer.IPBlock, path.Child("ipBlock"), errs)
		return compiled
	case !selects:
		// A field of a later Kubernetes release looks like this, too.
		*errs = append(*errs, field.Required(path, "write podSelector, namespaceSelector or ipBlock"))
		return policy.Peer{}
	}
	selector := func(from *metav1.LabelSelector, name string) *policy.Selector {
		if from == nil {
			return nil
		}
		s, known := labelSelector(from, path.Child(name), errs)
		valid = valid && known
		return &s
	}
	compiled.Pods, compiled.Namespaces = selector(peer.PodSelector, "podSelector"), selector(peer.NamespaceSelector, "namespaceSelector")
	if !valid {
		return policy.Peer{}
	}
	return compiled
}

// policyBlock returns nil, so that the peer matches nothing, if one of the networks is invalid.
func policyBlock(block *networkingv1.IPBlock, path *field.Path, errs *field.ErrorList) *policy.Block {
	prefix, ok := network(block.CIDR, path.Child("cidr"), errs)
	compiled := &policy.Block{Prefix: prefix}
	for i, text := range block.Except {
		at := path.Child("except").Index(i)
		except, valid := network(text, at, errs)
		if inside := prefix.Contains(except.Addr()) && except.Bits() > prefix.Bits(); ok && valid && !inside {
			valid = false
			*errs = append(*errs, field.Invalid(at, text, fmt.Sprintf("write a part of %s", prefix)))
		}
		ok = ok && valid
		compiled.Except = append(compiled.Except, except)
	}
	if !ok {
		return nil
	}
	return compiled
}

// network parses a CIDR like the API server: also with leading zeros, which are decimal, and with host bits.
func network(text string, path *field.Path, errs *field.ErrorList) (netip.Prefix, bool) {
	if _, parsed, err := netutils.ParseCIDRSloppy(text); err == nil {
		addr, _ := netip.AddrFromSlice(parsed.IP)
		bits, _ := parsed.Mask.Size()
		if !addr.Is4In6() {
			return netip.PrefixFrom(addr, bits), true
		}
	}
	*errs = append(*errs, field.Invalid(path, text, "write a CIDR, e.g. 10.0.0.0/8 or fd00::/8"))
	return netip.Prefix{}, false
}

// policyPort returns the zero port, which matches nothing, for an invalid one.
func policyPort(port *networkingv1.NetworkPolicyPort, path *field.Path, errs *field.ErrorList) policy.Port {
	protocol, ok := protocolOf(port.Protocol)
	if !ok {
		*errs = append(*errs, field.NotSupported(path.Child("protocol"), *port.Protocol, protocols))
		return policy.Port{}
	}
	compiled := policy.Port{Protocol: protocol, To: math.MaxUint16}
	switch {
	case port.Port == nil && port.EndPort == nil:
		return compiled
	case port.Port == nil || port.Port.Type == intstr.String && port.EndPort != nil:
		*errs = append(*errs, field.Invalid(path.Child("endPort"), *port.EndPort, "write a number in port, too, e.g. port: 8000"))
		return policy.Port{}
	case port.Port.Type == intstr.String && len(validation.IsValidPortName(port.Port.StrVal)) > 0:
		*errs = append(*errs, field.Invalid(path.Child("port"), port.Port.StrVal, "write a number from 1 to 65535, or the name of a port"))
		return policy.Port{}
	case port.Port.Type == intstr.String:
		compiled.Name, compiled.To = port.Port.StrVal, 0
		return compiled
	}
	from, to := port.Port.IntVal, ptr.Deref(port.EndPort, port.Port.IntVal)
	if from < 1 || to < from || to > math.MaxUint16 {
		*errs = append(*errs, field.Invalid(path, fmt.Sprintf("port %d, endPort %d", from, to), "write numbers from 1 to 65535, endPort not below port"))
		return policy.Port{}
	}
	compiled.From, compiled.To = uint16(from), uint16(to)
	return compiled
}

var selectorOperators = map[metav1.LabelSelectorOperator]policy.Operator{
	metav1.LabelSelectorOpIn: policy.In, metav1.LabelSelectorOpNotIn: policy.NotIn,
	metav1.LabelSelectorOpExists: policy.Exists, metav1.LabelSelectorOpDoesNotExist: policy.DoesNotExist,
}

// labelSelector compiles a selector in a fixed order. It leaves unknown requirements out and then returns false: the result selects
// more than the original.
func labelSelector(from *metav1.LabelSelector, path *field.Path, errs *field.ErrorList) (compiled policy.Selector, known bool) {
	known = true
	for key, value := range from.MatchLabels {
		compiled = append(compiled, policy.Requirement{Key: key, Operator: policy.In, Values: []string{value}})
	}
	for i, r := range from.MatchExpressions {
		operator, ok := selectorOperators[r.Operator]
		takesValues := operator == policy.In || operator == policy.NotIn
		if !ok || takesValues != (len(r.Values) > 0) {
			known = false
			*errs = append(*errs, field.Invalid(path.Child("matchExpressions").Index(i), fmt.Sprintf("%s %s %q", r.Key, r.Operator, r.Values),
				"write In or NotIn with values, Exists or DoesNotExist without"))
			continue
		}
		values := slices.Sorted(slices.Values(r.Values))
		compiled = append(compiled, policy.Requirement{Key: r.Key, Operator: operator, Values: values})
	}
	slices.SortFunc(compiled, policy.Requirement.Compare)
	return compiled, known
}

// HasEnded reports whether no container of the pod runs any more, nor will.
func HasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PolicyPod returns the part of a Pod that concerns policies, nil for a finished pod, whose addresses may belong to another one.
func PolicyPod(object *corev1.Pod) *policy.Pod {
	if HasEnded(object) {
		return nil
	}
	p := &policy.Pod{
		Name: policy.Name{Namespace: object.Namespace, Name: object.Name}, Labels: object.Labels,
		HostNetwork: object.Spec.HostNetwork, Node: object.Spec.NodeName,
	}
	for _, ip := range object.Status.PodIPs {
		p.Addrs = appendAddr(p.Addrs, ip.IP)
	}
	for _, ip := range object.Status.HostIPs {
		p.NodeAddrs = appendAddr(p.NodeAddrs, ip.IP)
	}
	for _, c := range RunningContainers(&object.Spec) {
		p.Ports = appendPorts(p.Ports, c.Ports)
	}
	return p
}

// RunningContainers returns the containers that run at the same time: sidecars (KEP-753), but no other init containers.
func RunningContainers(spec *corev1.PodSpec) (running []*corev1.Container) {
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			running = append(running, c)
		}
	}
	for i := range spec.Containers {
		running = append(running, &spec.Containers[i])
	}
	return running
}

func appendAddr(addrs []netip.Addr, text string) []netip.Addr {
	if addr, err := netip.ParseAddr(text); err == nil {
		return append(addrs, addr.Unmap().WithZone(""))
	}
	return addrs
}

func appendPorts(named []policy.NamedPort, ports []corev1.ContainerPort) []policy.NamedPort {
	for _, port := range ports {
		protocol, ok := protocolOf(&port.Protocol)
		if ok && port.Name != "" && port.ContainerPort > 0 && port.ContainerPort <= math.MaxUint16 {
			named = append(named, policy.NamedPort{Name: port.Name, Protocol: protocol, Port: uint16(port.ContainerPort)})
		}
	}
	return named
}
