package compile_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// The rules have scenarios in internal/policy/testdata.

// FuzzNetworkPolicy converts any object in JSON, and checks that invalid parts never open a pod.
func FuzzNetworkPolicy(f *testing.F) {
	f.Add([]byte(`{"spec":{"ingress":[{"from":[{"ipBlock":{"cidr":"010.0.0.0/8","except":["::ffff:10.0.0.0/104"]}}],"ports":[{"port":"http","endPort":-1}]}]}}`))
	f.Add([]byte(`{"spec":{"podSelector":{"matchExpressions":[{"key":"a","operator":"Gt"}]},"egress":[{}],"policyTypes":["Forward"]}}`))
	f.Add([]byte(`{"spec":{"egress":[{"to":[{},{"podSelector":{},"namespaceSelector":{"matchLabels":{"a":""}}}],"ports":[{},{"port":65536},{"port":1,"endPort":65535}]}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var object networkingv1.NetworkPolicy
		if json.Unmarshal(text, &object) != nil {
			return
		}
		compiled, errs := compile.NetworkPolicy(&object)
		web := &policy.Pod{Name: policy.Name{Namespace: object.Namespace, Name: "web"}, Labels: map[string]string{"a": ""}, Addrs: []netip.Addr{netip.MustParseAddr("10.6.0.1")}}
		c := policy.NewCluster([]policy.Namespace{{Name: object.Namespace}}, []*policy.Pod{web}, []*policy.Policy{compiled}, nil)
		filter := c.Decide(web)
		if !compiled.Pods.Matches(web.Labels) {
			return
		}
		if len(filter.Ingress.Isolating)+len(filter.Egress.Isolating) == 0 {
			t.Fatal("a policy that selects the pod isolates it in no direction")
		}
		invalid := slices.ContainsFunc(errs, func(err *field.Error) bool { return strings.HasPrefix(err.Field, "spec.podSelector") })
		if invalid && (opens(filter.Sets().Ingress) || opens(filter.Sets().Egress)) {
			t.Fatalf("an invalid podSelector opens the pod: %v", errs)
		}
	})
}

func opens(allowed *policy.Allowed) bool {
	return allowed != nil && (!allowed.Any.IsEmpty() || len(allowed.Segments) > 0)
}

// FuzzMultiNetworkPolicy converts any object in JSON with any networks.
func FuzzMultiNetworkPolicy(f *testing.F) {
	f.Add("blue, n/red,,a/b/c", []byte(`{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["192.0.2.0/24"]}}],"ports":[{"port":"80"}]}]}`))
	f.Add("n/blue", []byte(`{"podSelector":{"matchExpressions":[{"key":"a","operator":"Gt"}]},"egress":[{}],"policyTypes":["Forward"]}`))
	f.Add(strings.Repeat("a,", 100), []byte(`{}`))
	f.Fuzz(func(t *testing.T, networks string, spec []byte) {
		object := multipolicy.MultiNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", Annotations: map[string]string{names.AnnotationPolicyFor: networks}}}
		if json.Unmarshal(spec, &object.Spec) != nil {
			return
		}
		compiled, errs := compile.MultiNetworkPolicy(&object)
		if len(compiled.Networks) > 64 || !slices.IsSortedFunc(compiled.Networks, policy.Name.Compare) {
			t.Fatalf("networks %v", compiled.Networks)
		}
		net1 := policy.Interface{Name: "net1", Network: policy.Name{Namespace: "n", Name: "blue"}, Addrs: []netip.Addr{netip.MustParseAddr("10.7.0.1")}}
		web := &policy.Pod{Name: policy.Name{Namespace: "n", Name: "web"}, Labels: map[string]string{"a": ""}, Interfaces: []policy.Interface{net1}}
		c := policy.NewCluster([]policy.Namespace{{Name: "n"}}, []*policy.Pod{web}, []*policy.Policy{compiled}, nil)
		first, filter := c.Decide(web), c.DecideInterface(web, &net1)
		isolates := func(f policy.Filter) bool { return len(f.Ingress.Isolating)+len(f.Egress.Isolating) > 0 }
		concerned := slices.Contains(compiled.Networks, net1.Network) && compiled.Pods.Matches(web.Labels)
		switch {
		case isolates(first) || isolates(filter) != concerned:
			t.Fatalf("eth0 isolated: %t, net1 isolated: %t, want %t; networks %v", isolates(first), isolates(filter), concerned, compiled.Networks)
		case len(compiled.Networks) == 0 && len(errs) == 0:
			t.Fatal("a policy without networks has no reason")
		}
		invalid := slices.ContainsFunc(errs, func(err *field.Error) bool { return strings.HasPrefix(err.Field, "spec.podSelector") })
		if sets := filter.Sets(); invalid && (opens(sets.Ingress) || opens(sets.Egress)) {
			t.Fatalf("an invalid podSelector opens the pod: %v", errs)
		}
	})
}

// FuzzClusterNetworkPolicy converts any object in JSON. An object with an unknown tier counts as one of the tier Admin.
func FuzzClusterNetworkPolicy(f *testing.F) {
	f.Add([]byte(`{"spec":{"tier":"Admin","subject":{"namespaces":{}},"ingress":[{"action":"Deny","from":[{"pods":{"podSelector":{"matchLabels":{"a":""}}}}]}]}}`))
	f.Add([]byte(`{"spec":{"subject":{"pods":{}},"egress":[{"action":"Log","to":[{"networks":["::/0"]},{"nodes":{}}],"protocols":[{"tcp":{"destinationPort":{"range":{"start":-1}}}}]}]}}`))
	f.Add([]byte(`{"spec":{"tier":"Baseline","subject":{"namespaces":{}},"egress":[{"action":"Deny","to":[{"networks":["10.0.0.0/8"]}],"protocols":[{"destinationNamedPort":"http"}]}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var object npv1beta1.ClusterNetworkPolicy
		if json.Unmarshal(text, &object) != nil {
			return
		}
		compiled, errs := compile.ClusterNetworkPolicy(&object)
		web := &policy.Pod{Name: policy.Name{Namespace: "n", Name: "web"}, Labels: map[string]string{"a": ""}, Addrs: []netip.Addr{netip.MustParseAddr("10.6.0.1")}}
		filter := policy.NewCluster([]policy.Namespace{{Name: "n"}}, []*policy.Pod{web}, nil, []*policy.ClusterPolicy{compiled}).Decide(web)
		for _, side := range []*policy.Side{&filter.Ingress, &filter.Egress} {
			if invalid := len(errs) > 0 && len(side.Admin)+len(side.Baseline) > 0; invalid && !closes(object.Spec.Tier, side) {
				t.Fatalf("%v: %v", errs, side)
			}
		}
		filter.Sets()
	})
}

// closes reports whether a side is in the tier of the object, or in Admin if this is unknown.
func closes(tier npv1beta1.Tier, side *policy.Side) bool {
	return (tier == npv1beta1.BaselineTier) == (len(side.Baseline) > 0)
}

func TestPolicyPodLeavesFinishedPodsOut(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]bool{corev1.PodPending: true, corev1.PodRunning: true, corev1.PodUnknown: true, corev1.PodSucceeded: false, corev1.PodFailed: false} {
		if got := compile.PolicyPod(&corev1.Pod{Status: corev1.PodStatus{Phase: phase}}) != nil; got != want {
			t.Errorf("phase %s: got %v", phase, got)
		}
	}
}

func TestPolicyPodReadsNamedPorts(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, number int32) []corev1.ContainerPort {
		return []corev1.ContainerPort{{Name: name, ContainerPort: number}}
	}
	p := compile.PolicyPod(&corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Ports: port("init", 1)}, {RestartPolicy: &always, Ports: port("sidecar", 2)}},
		Containers:     []corev1.Container{{Ports: port("", 3)}, {Ports: port("large", 70000)}, {Ports: port("http", 80)}},
	}})
	if len(p.Ports) != 2 || p.Ports[0].Name != "sidecar" || p.Ports[1] != (policy.NamedPort{Name: "http", Protocol: service.TCP, Port: 80}) {
		t.Errorf("got %v", p.Ports)
	}
}

// A policy beyond the limits isolates its pods and allows nothing, like one with an unknown selector.
func TestPolicyBeyondLimitsAllowsNothing(t *testing.T) {
	peer := func(i int) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": strconv.Itoa(i)}}}
	}
	for _, tc := range []struct {
		name                     string
		rules, selectors, blocks int // selectors and blocks of each rule
		want                     string
	}{
		{"many rules with one selector", 1000, 1, 0, ""},
		{"too many rules", 1001, 1, 0, "1001 rules; write policies with at most 1000 rules"},
		{"many selectors", 2, 100, 0, ""},
		{"too many selectors", 1, 101, 0, "101 pairs of selectors; write policies with at most 100 pairs of selectors"},
		{"any number of blocks", 10, 0, 1000, ""},
	} {
		object := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p"}}
		for range tc.rules {
			var rule networkingv1.NetworkPolicyIngressRule
			for i := range tc.selectors {
				rule.From = append(rule.From, peer(i))
			}
			for range tc.blocks {
				rule.From = append(rule.From, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}})
			}
			object.Spec.Ingress = append(object.Spec.Ingress, rule)
		}
		compiled, errs := compile.NetworkPolicy(object)
		fault := ""
		if len(errs) > 0 {
			fault = errs[0].Detail
		}
		if fault != tc.want || compiled.Ingress.Isolates != true || (len(compiled.Ingress.Rules) == 0) != (tc.want != "") {
			t.Errorf("%s: %q, isolates %t with %d rules, want %q", tc.name, fault, compiled.Ingress.Isolates, len(compiled.Ingress.Rules), tc.want)
		}
	}
}
