package compile

import (
	"fmt"
	"math"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// ClusterNetworkPolicy returns a ClusterNetworkPolicy as rules, none if its subject is unknown. The errors name the parts
// that this release does not understand. They fail closed as the API documentation of ClusterNetworkPolicyIngressPeer
// wants it: a rule with such a part matches nothing if its action is Accept, and denies everything otherwise. With an
// unknown tier or selector in the subject, the policy denies everything to the pods that it may select.
func ClusterNetworkPolicy(object *npv1beta1.ClusterNetworkPolicy) (*policy.ClusterPolicy, field.ErrorList) {
	var errs field.ErrorList
	spec, path := &object.Spec, field.NewPath("spec")
	p := &policy.ClusterPolicy{Name: policy.Name{Name: object.Name}, Priority: spec.Priority}
	known := true
	switch spec.Tier {
	case npv1beta1.AdminTier:
	case npv1beta1.BaselineTier:
		p.Tier = policy.Baseline
	default:
		known = false
		errs = append(errs, field.NotSupported(path.Child("tier"), spec.Tier, []npv1beta1.Tier{npv1beta1.AdminTier, npv1beta1.BaselineTier}))
	}
	subject, at := &spec.Subject, path.Child("subject")
	if (subject.Namespaces == nil) == (subject.Pods == nil) {
		return p, append(errs, field.Required(at, "write either namespaces or pods"))
	}
	namespaces, pods := subject.Namespaces, &metav1.LabelSelector{}
	if subject.Pods != nil {
		namespaces, pods, at = &subject.Pods.NamespaceSelector, &subject.Pods.PodSelector, at.Child("pods")
	}
	var knownNamespaces, knownPods bool
	p.Namespaces, knownNamespaces = labelSelector(namespaces, at.Child("namespaceSelector"), &errs)
	p.Pods, knownPods = labelSelector(pods, at.Child("podSelector"), &errs)
	if !known || !knownNamespaces || !knownPods {
		p.Ingress, p.Egress = []policy.TierRule{denyAll}, []policy.TierRule{denyAll}
		return p, errs
	}
	for i := range spec.Ingress {
		rule := &spec.Ingress[i]
		t := tierRule{path: path.Child("ingress").Index(i), errs: &errs}
		for j, peer := range rule.From {
			t.addPeer(t.path.Child("from").Index(j), peer.Namespaces, peer.Pods, nil)
		}
		p.Ingress = append(p.Ingress, t.compile(rule.Action, "from", rule.Protocols))
	}
	for i := range spec.Egress {
		rule := &spec.Egress[i]
		t := tierRule{path: path.Child("egress").Index(i), errs: &errs}
		for j, peer := range rule.To {
			at := t.path.Child("to").Index(j)
			if peer.Nodes != nil || len(peer.DomainNames) > 0 {
				t.invalid(field.Invalid(at, "nodes or domainNames", "these are experimental; write namespaces, pods or networks"))
				continue
			}
			t.addPeer(at, peer.Namespaces, peer.Pods, peer.Networks)
		}
		p.Egress = append(p.Egress, t.compile(rule.Action, "to", rule.Protocols))
	}
	return p, errs
}

var denyAll = policy.TierRule{Rule: policy.Rule{AnyPeer: true, AnyPort: true}, Action: policy.Deny}

// tierRule is a rule of a ClusterNetworkPolicy in the making.
type tierRule struct {
	rule    policy.Rule
	unknown bool
	path    *field.Path
	errs    *field.ErrorList
}

func (t *tierRule) invalid(err *field.Error) {
	t.unknown = true
	*t.errs = append(*t.errs, err)
}

// addPeer adds a peer. Exactly one of the fields must be set.
func (t *tierRule) addPeer(path *field.Path, namespaces *metav1.LabelSelector, pods *npv1beta1.NamespacedPod, networks []npv1beta1.CIDR) {
	set := 0
	for _, is := range []bool{namespaces != nil, pods != nil, len(networks) > 0} {
		if is {
			set++
		}
	}
	if set != 1 {
		// A field of a later release looks like none.
		t.invalid(field.Required(path, "write one of namespaces, pods and, for egress, networks"))
		return
	}
	for i, text := range networks {
		prefix, ok := network(string(text), path.Child("networks").Index(i), t.errs)
		t.unknown = t.unknown || !ok
		t.rule.Peers = append(t.rule.Peers, policy.Peer{Block: &policy.Block{Prefix: prefix}})
	}
	if namespaces != nil {
		selector, ok := labelSelector(namespaces, path.Child("namespaces"), t.errs)
		t.unknown = t.unknown || !ok
		t.rule.Peers = append(t.rule.Peers, policy.Peer{Namespaces: &selector})
	}
	if pods != nil {
		inNamespaces, ok := labelSelector(&pods.NamespaceSelector, path.Child("pods", "namespaceSelector"), t.errs)
		selector, also := labelSelector(&pods.PodSelector, path.Child("pods", "podSelector"), t.errs)
		t.unknown = t.unknown || !ok || !also
		t.rule.Peers = append(t.rule.Peers, policy.Peer{Namespaces: &inNamespaces, Pods: &selector})
	}
}

// compile returns the rule; key is that of its peers.
func (t *tierRule) compile(action npv1beta1.ClusterNetworkPolicyRuleAction, key string, protocols []npv1beta1.ClusterNetworkPolicyProtocol) policy.TierRule {
	if len(t.rule.Peers) == 0 && !t.unknown {
		t.invalid(field.Required(t.path.Child(key), "write at least one peer"))
	}
	t.rule.AnyPort = len(protocols) == 0
	for i := range protocols {
		t.addPorts(&protocols[i], t.path.Child("protocols").Index(i))
	}
	compiled := policy.TierRule{Rule: t.rule}
	switch action {
	case npv1beta1.ClusterNetworkPolicyRuleActionAccept:
		if t.unknown {
			return policy.TierRule{}
		}
	case npv1beta1.ClusterNetworkPolicyRuleActionDeny:
		compiled.Action = policy.Deny
	case npv1beta1.ClusterNetworkPolicyRuleActionPass:
		compiled.Action = policy.Pass
	default:
		t.invalid(field.NotSupported(t.path.Child("action"), action, []string{"Accept", "Deny", "Pass"}))
	}
	if t.unknown {
		return denyAll
	}
	return compiled
}

// addPorts adds the ports of an entry. Exactly one of the fields must be set.
func (t *tierRule) addPorts(p *npv1beta1.ClusterNetworkPolicyProtocol, path *field.Path) {
	var found []policy.Port
	add := func(protocol service.Protocol, port *npv1beta1.Port) {
		compiled, ok := tierPort(port)
		if !ok {
			t.invalid(field.Invalid(path, fmt.Sprintf("%s %s", protocol, portText(port)), "write destinationPort with a number from 1 to 65535, or a range of them"))
		}
		compiled.Protocol = protocol
		found = append(found, compiled)
	}
	if p.TCP != nil {
		add(service.TCP, p.TCP.DestinationPort)
	}
	if p.UDP != nil {
		add(service.UDP, p.UDP.DestinationPort)
	}
	if p.SCTP != nil {
		add(service.SCTP, p.SCTP.DestinationPort)
	}
	if len(found) > 1 || (len(found) == 1) == (p.DestinationNamedPort != "") {
		t.invalid(field.Required(path, "write one of tcp, udp, sctp and destinationNamedPort"))
	}
	if p.DestinationNamedPort != "" {
		for _, protocol := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
			found = append(found, policy.Port{Protocol: protocol, Name: p.DestinationNamedPort})
		}
	}
	t.rule.Ports = append(t.rule.Ports, found...)
}

func tierPort(port *npv1beta1.Port) (policy.Port, bool) {
	if port == nil || (port.Number == 0) == (port.Range == nil) {
		return policy.Port{}, false
	}
	from, to := port.Number, port.Number
	if port.Range != nil {
		from, to = port.Range.Start, port.Range.End
	}
	if from < 1 || to < from || to > math.MaxUint16 {
		return policy.Port{}, false
	}
	return policy.Port{From: uint16(from), To: uint16(to)}, true
}

func portText(port *npv1beta1.Port) string {
	switch {
	case port == nil:
		return "without destinationPort"
	case port.Range != nil:
		return fmt.Sprintf("range %d-%d, number %d", port.Range.Start, port.Range.End, port.Number)
	}
	return fmt.Sprintf("number %d", port.Number)
}
