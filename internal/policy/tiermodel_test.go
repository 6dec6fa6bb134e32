package policy_test

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// tier judges a packet by the ClusterNetworkPolicies of one tier, straight from their API documentation. final is false
// if the tier leaves the packet to the next one.
func (w *world) tier(tier npv1beta1.Tier, pod *corev1.Pod, egress bool, peer, dst string, protocol corev1.Protocol, port int32) (passes, final bool) {
	ordered := slices.Clone(w.tiers)
	slices.SortFunc(ordered, func(a, b npv1beta1.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Spec.Priority, b.Spec.Priority), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range ordered {
		if p.Spec.Tier != tier || !w.isSubject(&p.Spec.Subject, pod) {
			continue
		}
		for _, rule := range rulesOf(&p.Spec, egress) {
			if !slices.ContainsFunc(rule.To, func(to npv1beta1.ClusterNetworkPolicyEgressPeer) bool {
				destinations := []corev1.Pod{*pod}
				if egress {
					destinations = w.destinations(&to, dst)
				}
				return w.isPeer(to, peer) && protocolsMatch(rule.Protocols, destinations, protocol, port)
			}) {
				continue
			}
			if rule.Action == npv1beta1.ClusterNetworkPolicyRuleActionPass {
				return false, false
			}
			return rule.Action == npv1beta1.ClusterNetworkPolicyRuleActionAccept, true
		}
	}
	return false, false
}

// rulesOf returns the rules of a direction, all as egress rules.
func rulesOf(spec *npv1beta1.ClusterNetworkPolicySpec, egress bool) (rules []npv1beta1.ClusterNetworkPolicyEgressRule) {
	if egress {
		return spec.Egress
	}
	for _, r := range spec.Ingress {
		rule := npv1beta1.ClusterNetworkPolicyEgressRule{Action: r.Action, Protocols: r.Protocols}
		for _, from := range r.From {
			rule.To = append(rule.To, npv1beta1.ClusterNetworkPolicyEgressPeer{Namespaces: from.Namespaces, Pods: from.Pods})
		}
		rules = append(rules, rule)
	}
	return rules
}

func (w *world) isSubject(s *npv1beta1.ClusterNetworkPolicySubject, pod *corev1.Pod) bool {
	if s.Namespaces != nil {
		return selects(s.Namespaces, w.labelsOf(pod.Namespace))
	}
	return selects(&s.Pods.NamespaceSelector, w.labelsOf(pod.Namespace)) && selects(&s.Pods.PodSelector, pod.Labels)
}

func (w *world) labelsOf(namespace string) map[string]string {
	at := slices.IndexFunc(w.namespaces, func(n corev1.Namespace) bool { return n.Name == namespace })
	return w.namespaces[at].Labels
}

func (w *world) isPeer(p npv1beta1.ClusterNetworkPolicyEgressPeer, addr string) bool {
	if slices.ContainsFunc(p.Networks, func(c npv1beta1.CIDR) bool { return inside(string(c), addr) }) {
		return true
	}
	return (p.Namespaces != nil || p.Pods != nil) && slices.ContainsFunc(w.pods, func(pod corev1.Pod) bool {
		return hasAddr(&pod, addr) && w.isSubject(&npv1beta1.ClusterNetworkPolicySubject{Namespaces: p.Namespaces, Pods: p.Pods}, &pod)
	})
}

// destinations returns the pods with the address, only selected ones unless the peer is a network.
func (w *world) destinations(p *npv1beta1.ClusterNetworkPolicyEgressPeer, addr string) (pods []corev1.Pod) {
	for _, pod := range w.pods {
		if hasAddr(&pod, addr) && (len(p.Networks) > 0 || w.isSubject(&npv1beta1.ClusterNetworkPolicySubject{Namespaces: p.Namespaces, Pods: p.Pods}, &pod)) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func protocolsMatch(protocols []npv1beta1.ClusterNetworkPolicyProtocol, destinations []corev1.Pod, protocol corev1.Protocol, number int32) bool {
	in := func(p *npv1beta1.Port, of corev1.Protocol) bool {
		return of == protocol && (p.Number == number || p.Range != nil && p.Range.Start <= number && number <= p.Range.End)
	}
	return len(protocols) == 0 || slices.ContainsFunc(protocols, func(p npv1beta1.ClusterNetworkPolicyProtocol) bool {
		switch {
		case p.TCP != nil:
			return in(p.TCP.DestinationPort, corev1.ProtocolTCP)
		case p.UDP != nil:
			return in(p.UDP.DestinationPort, corev1.ProtocolUDP)
		case p.SCTP != nil:
			return in(p.SCTP.DestinationPort, corev1.ProtocolSCTP)
		}
		return slices.ContainsFunc(destinations, func(pod corev1.Pod) bool { return names(&pod, p.DestinationNamedPort, protocol, number) })
	})
}

var clusterPolicies = rapid.Custom(func(t *rapid.T) (p npv1beta1.ClusterNetworkPolicy) {
	p.Name = fmt.Sprintf("c%d", rapid.IntRange(1, 5).Draw(t, "name"))
	p.Spec.Tier = rapid.SampledFrom([]npv1beta1.Tier{npv1beta1.AdminTier, npv1beta1.BaselineTier}).Draw(t, "tier")
	p.Spec.Priority = rapid.Int32Range(0, 2).Draw(t, "priority")
	p.Spec.Subject.Namespaces, p.Spec.Subject.Pods = somePods(t)
	for range rapid.IntRange(0, 3).Draw(t, "ingress") {
		r := npv1beta1.ClusterNetworkPolicyIngressRule{Action: actions.Draw(t, "action"), Protocols: rapid.SliceOfN(tierProtocols, 0, 2).Draw(t, "protocols")}
		for range rapid.IntRange(1, 2).Draw(t, "from") {
			namespaces, pods := somePods(t)
			r.From = append(r.From, npv1beta1.ClusterNetworkPolicyIngressPeer{Namespaces: namespaces, Pods: pods})
		}
		p.Spec.Ingress = append(p.Spec.Ingress, r)
	}
	for range rapid.IntRange(0, 3).Draw(t, "egress") {
		r := npv1beta1.ClusterNetworkPolicyEgressRule{Action: actions.Draw(t, "action"), Protocols: rapid.SliceOfN(tierProtocols, 0, 2).Draw(t, "protocols")}
		for range rapid.IntRange(1, 2).Draw(t, "to") {
			var peer npv1beta1.ClusterNetworkPolicyEgressPeer
			if rapid.Bool().Draw(t, "networks") {
				peer.Networks = rapid.SliceOfN(rapid.SampledFrom([]npv1beta1.CIDR{"10.6.0.0/24", "0.0.0.0/0", "::/0", "10.6.0.2/32"}), 1, 2).Draw(t, "CIDRs")
			} else {
				peer.Namespaces, peer.Pods = somePods(t)
			}
			r.To = append(r.To, peer)
		}
		p.Spec.Egress = append(p.Spec.Egress, r)
	}
	return p
})

var actions = rapid.SampledFrom([]npv1beta1.ClusterNetworkPolicyRuleAction{"Accept", "Deny", "Pass"})

func somePods(t *rapid.T) (*metav1.LabelSelector, *npv1beta1.NamespacedPod) {
	if rapid.Bool().Draw(t, "namespaces") {
		return selectors.Draw(t, "namespaces"), nil
	}
	return nil, &npv1beta1.NamespacedPod{NamespaceSelector: *selectors.Draw(t, "namespaces"), PodSelector: *selectors.Draw(t, "pods")}
}

var tierProtocols = rapid.Custom(func(t *rapid.T) (p npv1beta1.ClusterNetworkPolicyProtocol) {
	port := &npv1beta1.Port{Number: rapid.SampledFrom(somePorts).Draw(t, "port")}
	if rapid.Bool().Draw(t, "range") {
		port = &npv1beta1.Port{Range: &npv1beta1.PortRange{Start: min(port.Number, 65534), End: rapid.Int32Range(min(port.Number, 65534)+1, 65535).Draw(t, "end")}}
	}
	switch rapid.IntRange(0, 3).Draw(t, "protocol") {
	case 0:
		p.TCP = &npv1beta1.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
	case 1:
		p.UDP = &npv1beta1.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
	case 2:
		p.SCTP = &npv1beta1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
	default:
		p.DestinationNamedPort = rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "named port")
	}
	return p
})
