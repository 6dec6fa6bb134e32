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
	"k8s.io/apimachinery/pkg/util/yaml"
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
		err = client.EachPod(ctx, b.addPod)
	}
	return b.build(), err
}

// policyBuilder collects compiled objects.
type policyBuilder struct {
	namespaces []policy.Namespace
	pods       []*policy.Pod
	policies   []*policy.Policy
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
	for _, err := range errs {
		if b.invalid == nil {
			b.invalid = map[policy.Name][]string{}
		}
		b.invalid[compiled.Name] = append(b.invalid[compiled.Name], fmt.Sprintf("NetworkPolicy %s: %v", compiled.Name, err))
	}
}

func (b *policyBuilder) build() *policies {
	return &policies{policy.NewCluster(b.namespaces, b.pods, b.policies), b.invalid}
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

// sideView is one direction.
type sideView struct {
	// IsolatedBy are the policies that isolate the pod; without one, all traffic passes.
	IsolatedBy []string    `json:"isolatedBy"`
	Allows     []allowView `json:"allows,omitempty"`
}

// allowView is the traffic that one peer of a rule allows.
type allowView struct {
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
	both := slices.Concat(f.Ingress.Isolating, f.Egress.Isolating)
	slices.SortFunc(both, func(a, b policy.Name) int { return strings.Compare(a.String(), b.String()) })
	for _, isolating := range slices.Compact(both) {
		view.Invalid = append(view.Invalid, p.invalid[isolating]...)
	}
	return view, nil
}

func viewSide(f *policy.Filter, d policy.Direction) sideView {
	view := sideView{IsolatedBy: []string{}}
	for _, name := range f.Side(d).Isolating {
		view.IsolatedBy = append(view.IsolatedBy, name.String())
	}
	for _, a := range f.Side(d).Allows {
		v := allowView{Policy: a.Policy.String(), Rule: fmt.Sprintf("%s[%d]", d, a.Rule), Peer: a.Peer, Addresses: []string{}, Ports: []string{}}
		if text := policy.Addresses(a.Peers); text != "" {
			v.Addresses = strings.Split(text, ", ")
		}
		for _, ports := range a.Ports {
			v.Ports = append(v.Ports, ports.String())
		}
		for _, name := range a.Missing {
			v.Ports = append(v.Ports, name+" (no pod has this port)")
		}
		view.Allows = append(view.Allows, v)
	}
	return view
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
		return nil, fmt.Errorf("there is no running pod %s", e.pod)
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
	after := p.WithPolicies(changed.policies...)
	namespaces := map[string]bool{}
	for _, c := range changed.policies {
		view.Invalid = append(view.Invalid, changed.invalid[c.Name]...)
		if namespaces[c.Name.Namespace] {
			continue
		}
		namespaces[c.Name.Namespace] = true
		for _, pod := range p.Pods(c.Name.Namespace) {
			was, is := p.Decide(pod), after.Decide(pod)
			if changes := is.Sets().DiffFrom(was.Sets()); len(changes) > 0 {
				view.Pods = append(view.Pods, podChanges{pod.Name.String(), changes})
			}
		}
	}
	return view
}

// parsePolicies compiles a YAML stream of NetworkPolicies.
func parsePolicies(content []byte, namespace string) (*policyBuilder, error) {
	b := &policyBuilder{}
	reader := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(content)))
	document := make([]byte, len(content)+1)
	for {
		n, err := reader.Read(document)
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(document[:n])) == 0 {
			continue
		}
		var object networkingv1.NetworkPolicy
		if err := sigsyaml.Unmarshal(document[:n], &object); err != nil {
			return nil, err
		}
		if object.Kind != "NetworkPolicy" || object.APIVersion != networkingv1.SchemeGroupVersion.String() {
			return nil, fmt.Errorf("apiVersion %q, kind %q: write NetworkPolicies of %s only", object.APIVersion, object.Kind, networkingv1.SchemeGroupVersion)
		}
		if err := sigsyaml.UnmarshalStrict(document[:n], &object); err != nil {
			return nil, err
		}
		if object.Namespace == "" {
			object.Namespace = namespace
		}
		b.addPolicy(&object)
	}
}
