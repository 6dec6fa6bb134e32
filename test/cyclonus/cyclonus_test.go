// Package cyclonus judges the generated test cases of cyclonus (https://github.com/mattfenwick/cyclonus) with package policy,
// and compares with the verdicts of its own matcher.
package cyclonus

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// cluster has the objects of one test case, as they are after each step.
type cluster struct {
	namespaces map[string]map[string]string
	pods       map[policy.Name]*corev1.Pod
	policies   map[policy.Name]*networkingv1.NetworkPolicy
	next       netip.Addr
}

var (
	namespaces = []string{"x", "y", "z"}
	protocols  = map[corev1.Protocol]service.Protocol{corev1.ProtocolTCP: service.TCP, corev1.ProtocolUDP: service.UDP, corev1.ProtocolSCTP: service.SCTP}
	ports      = []int32{80, 81}
)

// newCluster has the pods a, b and c in each namespace, as cyclonus makes them.
func newCluster() *cluster {
	c := &cluster{map[string]map[string]string{}, map[policy.Name]*corev1.Pod{}, map[policy.Name]*networkingv1.NetworkPolicy{}, netip.MustParseAddr("10.6.0.1")}
	for _, namespace := range namespaces {
		c.namespaces[namespace] = map[string]string{"ns": namespace}
		for _, name := range []string{"a", "b", "c"} {
			c.addPod(namespace, name, map[string]string{"pod": name})
		}
	}
	return c
}

func (c *cluster) addPod(namespace, name string, labels map[string]string) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
	for protocol := range protocols {
		for _, port := range ports {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
				Ports: []corev1.ContainerPort{{Name: portName(port, protocol), ContainerPort: port, Protocol: protocol}},
			})
		}
	}
	pod.Status.PodIPs = []corev1.PodIP{{IP: c.next.String()}}
	c.pods[policy.Name{Namespace: namespace, Name: name}] = pod
	c.next = c.next.Next()
}

// portName is that of cyclonus' pods.
func portName(port int32, protocol corev1.Protocol) string {
	lower := map[corev1.Protocol]string{corev1.ProtocolTCP: "tcp", corev1.ProtocolUDP: "udp", corev1.ProtocolSCTP: "sctp"}
	return fmt.Sprintf("serve-%d-%s", port, lower[protocol])
}

func (c *cluster) act(t *testing.T, action *generator.Action) {
	t.Helper()
	set := func(p *networkingv1.NetworkPolicy) { c.policies[policy.Name{Namespace: p.Namespace, Name: p.Name}] = p }
	switch {
	case action.CreatePolicy != nil:
		set(action.CreatePolicy.Policy)
	case action.UpdatePolicy != nil:
		set(action.UpdatePolicy.Policy)
	case action.DeletePolicy != nil:
		delete(c.policies, policy.Name{Namespace: action.DeletePolicy.Namespace, Name: action.DeletePolicy.Name})
	case action.CreateNamespace != nil:
		c.namespaces[action.CreateNamespace.Namespace] = action.CreateNamespace.Labels
	case action.SetNamespaceLabels != nil:
		c.namespaces[action.SetNamespaceLabels.Namespace] = action.SetNamespaceLabels.Labels
	case action.DeleteNamespace != nil:
		delete(c.namespaces, action.DeleteNamespace.Namespace)
		maps.DeleteFunc(c.pods, func(name policy.Name, _ *corev1.Pod) bool { return name.Namespace == action.DeleteNamespace.Namespace })
	case action.CreatePod != nil:
		c.addPod(action.CreatePod.Namespace, action.CreatePod.Pod, action.CreatePod.Labels)
	case action.SetPodLabels != nil:
		c.pods[policy.Name{Namespace: action.SetPodLabels.Namespace, Name: action.SetPodLabels.Pod}].Labels = action.SetPodLabels.Labels
	case action.DeletePod != nil:
		delete(c.pods, policy.Name{Namespace: action.DeletePod.Namespace, Name: action.DeletePod.Pod})
	case action.ReadNetworkPolicies == nil:
		t.Fatalf("unknown action %+v", action)
	}
}

// compiled returns the cluster as our product sees it.
func (c *cluster) compiled(t *testing.T) *policy.Cluster {
	t.Helper()
	var spaces []policy.Namespace
	for name, labels := range c.namespaces {
		spaces = append(spaces, policy.Namespace{Name: name, Labels: labels})
	}
	var pods []*policy.Pod
	for _, pod := range c.pods {
		pods = append(pods, compile.PolicyPod(pod))
	}
	var policies []*policy.Policy
	for _, p := range c.policies {
		compiled, errs := compile.NetworkPolicy(p)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		policies = append(policies, compiled)
	}
	return policy.NewCluster(spaces, pods, policies, nil)
}

func (c *cluster) peer(pod *corev1.Pod) *matcher.TrafficPeer {
	return &matcher.TrafficPeer{IP: pod.Status.PodIPs[0].IP, Internal: &matcher.InternalPeer{
		PodLabels: pod.Labels, Namespace: pod.Namespace, NamespaceLabels: c.namespaces[pod.Namespace],
	}}
}

// TestVerdictsEqualCyclonus compares all connections between two pods after each step of each case.
func TestVerdictsEqualCyclonus(t *testing.T) {
	podIP := newCluster().pods[policy.Name{Namespace: "z", Name: "c"}].Status.PodIPs[0].IP
	cases := generator.NewTestCaseGenerator(true, podIP, namespaces, nil, nil).GenerateAllTestCases()
	if len(cases) < 200 {
		t.Fatalf("only %d cases", len(cases))
	}
	var steps, connections, denied int
	for _, tc := range cases {
		c := newCluster()
		for i, step := range tc.Steps {
			for _, action := range step.Actions {
				c.act(t, action)
			}
			steps++
			n, d := c.compare(t, fmt.Sprintf("%s, step %d", tc.Description, i))
			connections, denied = connections+n, denied+d
		}
	}
	t.Logf("%d cases, %d steps, %d connections, %d of them denied", len(cases), steps, connections, denied)
	if denied == 0 || denied == connections {
		t.Error("all verdicts are the same")
	}
}

// compare returns the number of connections, and of those that are denied.
func (c *cluster) compare(t *testing.T, step string) (connections, denied int) {
	t.Helper()
	theirs := matcher.BuildNetworkPolicies(true, slices.Collect(maps.Values(c.policies)))
	ours := c.compiled(t)
	for _, from := range c.pods {
		for _, to := range c.pods {
			if from == to {
				continue // a pod always reaches itself; cyclonus applies the rules there, too
			}
			for name, protocol := range protocols {
				for _, port := range ports {
					want := theirs.IsTrafficAllowed(&matcher.Traffic{
						Source: c.peer(from), Destination: c.peer(to), ResolvedPort: int(port), ResolvedPortName: portName(port, name), Protocol: name,
					})
					got := ours.Verdict(policy.Packet{
						From: netip.MustParseAddr(from.Status.PodIPs[0].IP), To: netip.MustParseAddr(to.Status.PodIPs[0].IP), Protocol: protocol, Port: uint16(port),
					})
					if got.Egress.Allowed() != want.Egress.IsAllowed() || got.Ingress.Allowed() != want.Ingress.IsAllowed() {
						t.Fatalf("%s: %s/%s → %s/%s %s %d: got egress %v, ingress %v; cyclonus: %v, %v", step, from.Namespace, from.Name, to.Namespace, to.Name,
							name, port, got.Egress.Allowed(), got.Ingress.Allowed(), want.Egress.IsAllowed(), want.Ingress.IsAllowed())
					}
					if connections++; !got.Allowed() {
						denied++
					}
				}
			}
		}
	}
	return connections, denied
}
