package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	sigsyaml "sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
)

// policies are the policies of the cluster, with the pods and namespaces that they select.
type policies struct {
	*policy.Cluster
	// invalid are the parts of policies that match nothing.
	invalid map[policy.Name][]string
}

// readPolicies reads namespaces and endpoints before pods: a pod in an unknown namespace is selected by no namespace selector,
// and has no interfaces without its endpoint. If about is not nil, only these pods get their interfaces,
// unless there are MultiNetworkPolicies: other policies concern a peer's addresses in its status.
func readPolicies(ctx context.Context, r reader, about []lease.PodKey) (*policies, error) {
	var b policyBuilder
	var group errgroup.Group
	group.Go(func() error { return r.EachNamespace(ctx, b.addNamespace) })
	group.Go(func() error { // one after the other: they share the invalid parts
		err := r.EachNetworkPolicy(ctx, b.addPolicy)
		if err == nil {
			err = r.EachClusterNetworkPolicy(ctx, b.addClusterPolicy)
		}
		multi := false
		if err == nil {
			err = r.EachMultiNetworkPolicy(ctx, func(object *multipolicy.MultiNetworkPolicy) {
				multi = true
				b.addMultiPolicy(object)
			})
		}
		if err != nil {
			return err
		}
		return b.readEndpoints(ctx, r, about, about == nil || multi)
	})
	err := group.Wait()
	if err == nil {
		err = r.EachPod(ctx, b.addPod)
	}
	return b.build(), err
}

// readEndpoints reads all endpoints, or those of some pods.
func (b *policyBuilder) readEndpoints(ctx context.Context, r reader, of []lease.PodKey, all bool) error {
	if all {
		endpoints, err := r.AllEndpoints(ctx)
		for _, endpoint := range endpoints {
			b.addEndpoint(endpoint)
		}
		return err
	}
	for _, key := range of {
		endpoint, err := r.ReadEndpoint(ctx, key.Namespace, key.Name)
		if err != nil {
			return err
		}
		if endpoint != nil {
			b.addEndpoint(endpoint)
		}
	}
	return nil
}

// policyBuilder collects compiled objects.
type policyBuilder struct {
	namespaces []policy.Namespace
	pods       []*policy.Pod
	policies   []*policy.Policy
	tiers      []*policy.ClusterPolicy
	endpoints  map[string]*v2beta1.SpiderEndpoint // by UID of the pod
	invalid    map[policy.Name][]string
}

func (b *policyBuilder) addNamespace(object *corev1.Namespace) {
	b.namespaces = append(b.namespaces, policy.Namespace{Name: object.Name, Labels: object.Labels})
}

func (b *policyBuilder) addPod(object *corev1.Pod) {
	pod := compile.PolicyPod(object)
	if pod == nil {
		return
	}
	if endpoint := b.endpoints[compile.PodUID(object.UID, object.Annotations)]; endpoint != nil {
		compile.AddPolicyInterfaces(pod, endpoint)
	}
	b.pods = append(b.pods, pod)
}

func (b *policyBuilder) addEndpoint(object *v2beta1.SpiderEndpoint) {
	if b.endpoints == nil {
		b.endpoints = map[string]*v2beta1.SpiderEndpoint{}
	}
	b.endpoints[object.Status.Current.UID] = object
}

func (b *policyBuilder) addPolicy(object *networkingv1.NetworkPolicy) {
	compiled, errs := compile.NetworkPolicy(object)
	b.policies = append(b.policies, compiled)
	b.addInvalid(compiled.Name, "NetworkPolicy "+compiled.Name.String(), errs)
}

func (b *policyBuilder) addMultiPolicy(object *multipolicy.MultiNetworkPolicy) {
	compiled, errs := compile.MultiNetworkPolicy(object)
	b.policies = append(b.policies, compiled)
	b.addInvalid(compiled.Name, compiled.Name.String(), errs)
}

func (b *policyBuilder) addClusterPolicy(object *npv1beta1.ClusterNetworkPolicy) {
	compiled, errs := compile.ClusterNetworkPolicy(object)
	b.tiers = append(b.tiers, compiled)
	b.addInvalid(compiled.Name, compiled.Name.String(), errs)
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
	HostNetwork bool            `json:"hostNetwork,omitempty"`
	Interfaces  []interfaceView `json:"interfaces"`
	Invalid     []string        `json:"invalid,omitempty"`
}

// interfaceView is an interface of a pod. The first one, eth0, is that of NetworkPolicies and ClusterNetworkPolicies.
type interfaceView struct {
	Name      string `json:"name"`
	Addresses string `json:"addresses"`
	// Network is the NetworkAttachmentDefinition, if it is known.
	Network string `json:"network,omitempty"`
	// Foreign means that another network plugin gave the pod this interface.
	Foreign bool     `json:"foreign,omitempty"`
	Ingress sideView `json:"ingress"`
	Egress  sideView `json:"egress"`
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

// show explains the interface with the name only, or all interfaces if it is empty.
func (p *policies) show(name policy.Name, only string) (podPolicyView, error) {
	pod := p.Pod(name)
	if pod == nil {
		return podPolicyView{}, fmt.Errorf("there is no running pod %s: kubectl get pods -n %s prints all names", name, name.Namespace)
	}
	view := podPolicyView{Pod: name.String(), Addresses: addrsText(pod.Addrs), Node: pod.Node, HostNetwork: pod.HostNetwork}
	shown, err := interfacesOf(pod, only)
	if err != nil {
		return podPolicyView{}, err
	}
	concerned := map[policy.Name]bool{}
	for i := range shown {
		f := p.DecideInterface(pod, &shown[i])
		view.Interfaces = append(view.Interfaces, viewInterface(pod, &shown[i], &f))
		for _, side := range []*policy.Side{&f.Ingress, &f.Egress} {
			for _, name := range side.Isolating {
				concerned[name] = true
			}
		}
	}
	for invalid := range p.invalid {
		// A ClusterNetworkPolicy may have lost its subject, and a MultiNetworkPolicy its networks.
		lost := invalid.Namespace == "" || invalid.Multi && invalid.Namespace == name.Namespace
		if lost || concerned[invalid] {
			view.Invalid = append(view.Invalid, p.invalid[invalid]...)
		}
	}
	slices.Sort(view.Invalid)
	return view, nil
}

// interfacesOf returns the interfaces of a pod, the default one first, or only that with the name.
func interfacesOf(pod *policy.Pod, only string) ([]policy.Interface, error) {
	all := []policy.Interface{{Name: pool.FirstInterface, Default: true}}
	for _, i := range pod.Interfaces {
		if i.Default {
			all[0] = i
		} else {
			all = append(all, i)
		}
	}
	all[0].Addrs = pod.Addrs
	if only == "" {
		return all, nil
	}
	var names []string
	for _, i := range all {
		if i.Name == only {
			return []policy.Interface{i}, nil
		}
		names = append(names, i.Name)
	}
	return nil, fmt.Errorf("pod %s has no interface %q with addresses of Spiderpool; write one of %s", pod.Name, only, strings.Join(names, ", "))
}

func viewInterface(pod *policy.Pod, i *policy.Interface, f *policy.Filter) interfaceView {
	view := interfaceView{Name: i.Name, Addresses: addrsText(i.Addrs), Ingress: viewSide(f, policy.Ingress), Egress: viewSide(f, policy.Egress)}
	if i.Network != (policy.Name{}) {
		view.Network = i.Network.String()
	}
	isOurs := slices.ContainsFunc(pod.Interfaces, func(ours policy.Interface) bool { return ours.Name == i.Name })
	view.Foreign = !isOurs && len(pod.Interfaces) > 0
	return view
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
	from, err := p.addrs(q.from, q.at)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	to, err := p.addrs(q.to, q.at)
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
				Protocol: q.protocol.String(), From: q.from.describe(source, q.at), To: q.to.describe(destination, q.at), Port: q.port, Allowed: v.Allowed(),
				Egress: v.Egress.Explain(policy.Egress), Ingress: v.Ingress.Explain(policy.Ingress),
			})
		}
	}
	if len(traces) == 0 {
		return nil, fmt.Errorf("--from has %s, --to has %s: no IP family in common", addrsText(from), addrsText(to))
	}
	return traces, nil
}

// addrs returns those of an interface of the pod, at, or of the default one if it is empty.
func (p *policies) addrs(e end, at string) ([]netip.Addr, error) {
	if e.addr.IsValid() {
		return []netip.Addr{e.addr}, nil
	}
	pod := p.Pod(e.pod)
	if pod == nil {
		return nil, fmt.Errorf("there is no running pod %s: kubectl get pods -n %s prints all names; for a service, name a pod behind it", e.pod, e.pod.Namespace)
	}
	found, err := interfacesOf(pod, cmp.Or(at, pool.FirstInterface))
	if err != nil {
		return nil, err
	}
	if len(found[0].Addrs) == 0 {
		return nil, fmt.Errorf("pod %s has no address yet", e.pod)
	}
	return found[0].Addrs, nil
}

func (e end) describe(addr netip.Addr, at string) string {
	if e.addr.IsValid() {
		return addr.String()
	}
	return fmt.Sprintf("%s (%s)", addr, strings.TrimSpace(e.pod.String()+" "+at))
}

// diffView are the changes for the pods with a change.
type diffView struct {
	Pods    []podChanges `json:"pods"`
	Invalid []string     `json:"invalid,omitempty"`
}

// podChanges are the changes for one interface of a pod; see policy.Sets.DiffFrom.
type podChanges struct {
	Pod string `json:"pod"`
	// Interface is empty for the default one.
	Interface string   `json:"interface,omitempty"`
	Changes   []string `json:"changes"`
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
		all, _ := interfacesOf(pod, "")
		for i := range all {
			was, is := p.DecideInterface(pod, &all[i]), after.DecideInterface(pod, &all[i])
			if changes := is.Sets().DiffFrom(was.Sets()); len(changes) > 0 {
				view.Pods = append(view.Pods, podChanges{pod.Name.String(), is.Interface, changes})
			}
		}
	}
	return view
}

// parsePolicies compiles a YAML stream of policies.
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
		object.Namespace = cmp.Or(object.Namespace, namespace)
		b.addPolicy(&object)
	case metav1.TypeMeta{APIVersion: multipolicy.GroupVersion.String(), Kind: "MultiNetworkPolicy"}:
		var object multipolicy.MultiNetworkPolicy
		if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
			return err
		}
		object.Namespace = cmp.Or(object.Namespace, namespace)
		b.addMultiPolicy(&object)
	case metav1.TypeMeta{APIVersion: npv1beta1.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}:
		var object npv1beta1.ClusterNetworkPolicy
		if err := sigsyaml.UnmarshalStrict(document, &object); err != nil {
			return err
		}
		b.addClusterPolicy(&object)
	default:
		return fmt.Errorf("apiVersion %q, kind %q: write NetworkPolicies of %s, MultiNetworkPolicies of %s and ClusterNetworkPolicies of %s only",
			meta.APIVersion, meta.Kind, networkingv1.SchemeGroupVersion, multipolicy.GroupVersion, npv1beta1.GroupVersion.String())
	}
	return nil
}
