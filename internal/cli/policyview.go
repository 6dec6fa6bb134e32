package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	sigsyaml "sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
)

// policies are the policies of the cluster, with the pods and namespaces that they select.
type policies struct {
	*policy.Cluster
	// invalid are the parts of policies that match nothing.
	invalid map[policy.Name][]string
}

// readPolicies reads namespaces before pods: a pod in an unknown namespace is selected by no namespace selector.
func readPolicies(ctx context.Context, client *agentclient.Client) (*policies, error) {
	var b policyBuilder
	err := client.EachNamespace(ctx, b.addNamespace)
	if err == nil {
		err = client.EachNetworkPolicy(ctx, b.addPolicy)
	}
	if err == nil {
		err = client.EachClusterNetworkPolicy(ctx, b.addClusterPolicy)
	}
	if err == nil {
		err = client.EachPod(ctx, b.addPod)
	}
	return b.build(), err
}

// policyBuilder collects compiled objects.
type policyBuilder struct {
	namespaces []policy.Namespace
	pods       []*policy.Pod
	policies   []*policy.Policy
	tiers      []*policy.ClusterPolicy
	invalid    map[policy.Name][]string
}

func (b *policyBuilder) addNamespace(object *corev1.Namespace) {
	b.namespaces = append(b.namespaces, policy.Namespace{Name: object.Name, Labels: object.Labels})
}

func (b *policyBuilder) addPod(object *corev1.Pod) {
	if pod := compile.PolicyPod(object); pod != nil {
		b.pods = append(b.pods, pod)
	}
}

func (b *policyBuilder) addPolicy(object *networkingv1.NetworkPolicy) {
	compiled, errs := compile.NetworkPolicy(object)
	b.policies = append(b.policies, compiled)
	b.addInvalid(compiled.Name, "NetworkPolicy "+compiled.Name.String(), errs)
}

func (b *policyBuilder) addClusterPolicy(object *npv1beta1.ClusterNetworkPolicy) {
	compiled, errs := compile.ClusterNetworkPolicy(object)
	if compiled != nil {
		b.tiers = append(b.tiers, compiled)
	}
	name := policy.Name{Name: object.Name}
	b.addInvalid(name, name.String(), errs)
}

func (b *policyBuilder) addInvalid(name policy.Name, text string, errs field.ErrorList) {
	for _, err := range errs {
		if b.invalid == nil {
			b.invalid = map[policy.Name][]string{}
		}
		b.invalid[name] = append(b.invalid[name], fmt.Sprintf("%s: %v", text, err))
	}
}

func (b *policyBuilder) build() *policies {
	return &policies{policy.NewCluster(b.namespaces, b.pods, b.policies, b.tiers), b.invalid}
}

// podPolicyView tells users which traffic of a pod passes.
type podPolicyView struct {
	Pod       string `json:"pod"`
	Addresses string `json:"addresses"`
	Node      string `json:"node,omitempty"`
	// HostNetwork means that no policy isolates the pod, because it uses the network of its node.
	HostNetwork bool     `json:"hostNetwork,omitempty"`
	Ingress     sideView `json:"ingress"`
	Egress      sideView `json:"egress"`
	Invalid     []string `json:"invalid,omitempty"`
}

// sideView is one direction; see policy.Side.
type sideView struct {
	Admin []matchView `json:"admin,omitempty"`
	// IsolatedBy are the NetworkPolicies that isolate the pod; without one, Baseline decides instead of Allows.
	IsolatedBy []string    `json:"isolatedBy"`
	Allows     []matchView `json:"allows,omitempty"`
	Baseline   []matchView `json:"baseline,omitempty"`
}

// matchView is the traffic of one peer of a rule.
type matchView struct {
	Action    string   `json:"action"`
	Policy    string   `json:"policy"`
	Rule      string   `json:"rule"`
	Peer      string   `json:"peer"`
	Addresses []string `json:"addresses"`
	Ports     []string `json:"ports"`
}

func (p *policies) show(name policy.Name) (podPolicyView, error) {
	pod := p.Pod(name)
	if pod == nil {
		return podPolicyView{}, fmt.Errorf("there is no running pod %s", name)
	}
	f := p.Decide(pod)
	view := podPolicyView{
		Pod: name.String(), Addresses: addrsText(pod.Addrs), Node: pod.Node, HostNetwork: pod.HostNetwork,
		Ingress: viewSide(&f, policy.Ingress), Egress: viewSide(&f, policy.Egress),
	}
	concerned := map[string]bool{}
	for _, side := range []*policy.Side{&f.Ingress, &f.Egress} {
		for _, name := range side.Isolating {
			concerned[name.String()] = true
		}
	}
	for isolating := range p.invalid {
		// A ClusterNetworkPolicy may have lost its subject.
		if isolating.Namespace == "" || concerned[isolating.String()] {
			view.Invalid = append(view.Invalid, p.invalid[isolating]...)
		}
	}
	slices.Sort(view.Invalid)
	return view, nil
}

func viewSide(f *policy.Filter, d policy.Direction) sideView {
	side := f.Side(d)
	view := sideView{IsolatedBy: []string{}, Admin: viewMatches(side.Admin, d), Allows: viewMatches(side.Allows, d), Baseline: viewMatches(side.Baseline, d)}
	for _, name := range side.Isolating {
		view.IsolatedBy = append(view.IsolatedBy, name.String())
	}
	return view
}

func viewMatches(matches []policy.Match, d policy.Direction) (views []matchView) {
	for _, m := range matches {
		v := matchView{
			Action: m.Action.String(), Policy: m.Policy.String(), Rule: fmt.Sprintf("%s[%d]", d, m.Rule), Peer: m.Peer, Addresses: []string{}, Ports: []string{},
		}
		if text := policy.Addresses(m.Peers); text != "" {
			v.Addresses = strings.Split(text, ", ")
		}
		for _, ports := range m.Ports {
			v.Ports = append(v.Ports, ports.String())
		}
		for _, name := range m.Missing {
			v.Ports = append(v.Ports, name+" (no pod has this port)")
		}
		views = append(views, v)
	}
	return views
}

func addrsText(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// traceView is the verdict on a connection.
type traceView struct {
	Protocol string `json:"protocol"`
	From     string `json:"from"` // e.g. "10.6.0.2 (shop/client)"
	To       string `json:"to"`
	Port     uint16 `json:"port"`
	Allowed  bool   `json:"allowed"`
	Egress   string `json:"egress"`
	Ingress  string `json:"ingress"`
}

// trace judges the connection once for each IP family that both ends have.
func (p *policies) trace(q question) ([]traceView, error) {
	from, err := p.addrs(q.from)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	to, err := p.addrs(q.to)
	if err != nil {
		return nil, fmt.Errorf("--to: %w", err)
	}
	var traces []traceView
	for _, source := range from {
		for _, destination := range to {
			if source.Is4() != destination.Is4() {
				continue
			}
			v := p.Verdict(policy.Packet{From: source, To: destination, Protocol: q.protocol, Port: q.port})
			traces = append(traces, traceView{
				Protocol: q.protocol.String(), From: q.from.describe(source), To: q.to.describe(destination), Port: q.port, Allowed: v.Allowed(),
				Egress: v.Egress.Explain(policy.Egress), Ingress: v.Ingress.Explain(policy.Ingress),
			})
		}
	}
	if len(traces) == 0 {
		return nil, fmt.Errorf("--from has %s, --to has %s: no IP family in common", addrsText(from), addrsText(to))
	}
	return traces, nil
}

func (p *policies) addrs(e end) ([]netip.Addr, error) {
	if e.addr.IsValid() {
		return []netip.Addr{e.addr}, nil
	}
	pod := p.Pod(e.pod)
	switch {
	case pod == nil:
		return nil, fmt.Errorf("there is no running pod %s; for a service, name a pod behind it", e.pod)
	case len(pod.Addrs) == 0:
		return nil, fmt.Errorf("pod %s has no address yet", e.pod)
	}
	return pod.Addrs, nil
}

func (e end) describe(addr netip.Addr) string {
	if e.addr.IsValid() {
		return addr.String()
	}
	return fmt.Sprintf("%s (%s)", addr, e.pod)
}

// diffView are the changes for the pods with a change.
type diffView struct {
	Pods    []podChanges `json:"pods"`
	Invalid []string     `json:"invalid,omitempty"`
}

// podChanges are the changes for one pod; see policy.Sets.DiffFrom.
type podChanges struct {
	Pod     string   `json:"pod"`
	Changes []string `json:"changes"`
}

// diff compares the traffic with and without the changed policies.
func (p *policies) diff(changed *policyBuilder) diffView {
	view := diffView{Pods: []podChanges{}}
	for _, texts := range changed.invalid {
		view.Invalid = append(view.Invalid, texts...)
	}
	slices.Sort(view.Invalid)
	after := p.WithPolicies(changed.policies, changed.tiers)
	for _, pod := range p.Pods() {
		was, is := p.Decide(pod), after.Decide(pod)
		if changes := is.Sets().DiffFrom(was.Sets()); len(changes) > 0 {
			view.Pods = append(view.Pods, podChanges{pod.Name.String(), changes})
		}
	}
	return view
}

// parsePolicies compiles a YAML stream of NetworkPolicies and ClusterNetworkPolicies.
func parsePolicies(content []byte, namespace string) (*policyBuilder, error) {
	b := &policyBuilder{}
	reader := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(content)))
	document := make([]byte, len(content)+1)
	for {
		n, err := reader.Read(document)
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err == nil && len(bytes.TrimSpace(document[:n])) > 0 {
			err = b.parse(document[:n], namespace)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (b *policyBuilder) parse(document []byte, namespace string) error {
	var meta metav1.TypeMeta
	if err := sigsyaml.Unmarshal(document, &meta); err != nil {
		return err
	}
	switch meta {
	case metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}:
		var object networkingv1.NetworkPolicy
		if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
			return err
		}
		if object.Namespace == "" {
			object.Namespace = namespace
		}
		b.addPolicy(&object)
	case metav1.TypeMeta{APIVersion: npv1beta1.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}:
		var object npv1beta1.ClusterNetworkPolicy
		if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
			return err
		}
		b.addClusterPolicy(&object)
	default:
		return fmt.Errorf("apiVersion %q, kind %q: write NetworkPolicies of %s and ClusterNetworkPolicies of %s only",
			meta.APIVersion, meta.Kind, networkingv1.SchemeGroupVersion, npv1beta1.GroupVersion.String())
	}
	return nil
}
