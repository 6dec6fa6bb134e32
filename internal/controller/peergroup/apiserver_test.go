//go:build apiserver

package peergroup_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/peergroup"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// run runs the reconciler for a test. Groups without a policy stay for a time.
func run(t *testing.T, unusedFor time.Duration) {
	t.Helper()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		r := peergroup.New(status.NewWriter(mgr), mgr.GetAPIReader(), slog.New(slog.NewTextHandler(t.Output(), nil)))
		r.SetUnusedFor(unusedFor)
		return r.Register(mgr)
	})
}

// createPod creates a running pod with an address and a named port, which the label app selects.
func createPod(t *testing.T, c client.Client, namespace, name, app string, ips ...string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
	}
	kubetest.Create(t, c, pod)
	setStatus(t, c, pod, corev1.PodRunning, ips...)
	return pod
}

func setStatus(t *testing.T, c client.Client, pod *corev1.Pod, phase corev1.PodPhase, ips ...string) {
	t.Helper()
	pod.Status = corev1.PodStatus{Phase: phase}
	for _, ip := range ips {
		pod.Status.PodIP = ips[0]
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

func label(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

// allow returns a policy that allows ingress from the pods with a label in its namespace.
func allow(namespace, name, app string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: label(app)},
		}}}},
	}
}

// groupOf returns the name of the only group of a policy.
func groupOf(t *testing.T, p *networkingv1.NetworkPolicy) string {
	t.Helper()
	compiled, errs := compile.NetworkPolicy(p)
	if len(errs) > 0 || len(compiled.Groups()) != 1 {
		t.Fatalf("groups %v, errors %v", compiled.Groups(), errs)
	}
	return compiled.Groups()[0].Name()
}

// has waits until a group has the addresses. Without any, "gone" stands for a group that does not exist.
func has(t *testing.T, c client.Client, group string, want ...string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		object := &v2beta1.SpiderPeerGroup{}
		err := c.Get(ctx, client.ObjectKey{Name: group}, object)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		got := object.Spec.IPs
		for _, p := range object.Spec.Ports {
			got = append(got, fmt.Sprintf("%s %d %s", p.Protocol, p.Port, strings.Join(p.IPs, " ")))
		}
		if err != nil {
			got = []string{"gone"}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("group %s has %q, want %q", group, got, want)
		}
		return nil
	})
}

func TestGroupFollowsPods(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	run(t, time.Hour)
	p := allow(namespace, "web", "client")
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	kubetest.Create(t, c, p)
	group := groupOf(t, p)
	has(t, c, group)

	one := createPod(t, c, namespace, "one", "client", "10.88.0.1", "fd00:88::1")
	createPod(t, c, namespace, "other", "other", "10.88.0.2")
	two := createPod(t, c, namespace, "two", "client", "10.88.0.3")
	host := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "host", Labels: map[string]string{"app": "client"}}, Spec: one.Spec}
	host.Spec = corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	kubetest.Create(t, c, host)
	setStatus(t, c, host, corev1.PodRunning, "192.0.2.1")
	has(t, c, group, "10.88.0.1", "10.88.0.3", "fd00:88::1")

	setStatus(t, c, one, corev1.PodSucceeded, "10.88.0.1", "fd00:88::1")
	has(t, c, group, "10.88.0.3")
	two.Labels = map[string]string{"app": "former"}
	if err := c.Update(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	has(t, c, group)

	// The agent writes the SpiderEndpoint before the kubelet reports the address.
	three := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "three", Labels: map[string]string{"app": "client"}}, Spec: two.Spec}
	three.Spec = corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	kubetest.Create(t, c, three)
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "three"}}
	endpoint.Status.Current = v2beta1.EndpointAllocation{UID: string(three.UID), Node: "n", IPs: []v2beta1.EndpointIP{{Interface: "eth0", IPv4: new("10.88.0.9/24")}}}
	endpoint.Status.OwnerControllerType, endpoint.Status.OwnerControllerName = "Pod", "three"
	kubetest.Create(t, c, endpoint)
	has(t, c, group, "10.88.0.9")
	kubetest.Remove(t, c, three)
	has(t, c, group)
}

// The SpiderEndpoint of a virtual machine has the name of the machine, and shows one of its pods.
func TestMachinesAreMembers(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	run(t, time.Hour)
	p := allow(namespace, "p", "client")
	kubetest.Create(t, c, p)
	group := groupOf(t, p)
	pod := func(name string) *corev1.Pod {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: name, Labels: map[string]string{"app": "client"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm", UID: "vm-uid", Controller: new(true)}},
			},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		kubetest.Create(t, c, pod)
		return pod
	}
	first, second := pod("virt-launcher-vm-1"), pod("virt-launcher-vm-2")
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "vm"}}
	endpoint.Status.Current = v2beta1.EndpointAllocation{UID: string(first.UID), Node: "n", IPs: []v2beta1.EndpointIP{{Interface: "eth0", IPv4: new("10.88.8.9/24")}}}
	endpoint.Status.OwnerControllerType, endpoint.Status.OwnerControllerName = "VirtualMachineInstance", "vm"
	kubetest.Create(t, c, endpoint)
	has(t, c, group, "10.88.8.9")
	kubetest.Remove(t, c, first) // behind a live migration
	has(t, c, group)
	endpoint.Status.Current.UID = string(second.UID)
	if err := c.Update(t.Context(), endpoint); err != nil {
		t.Fatal(err)
	}
	has(t, c, group, "10.88.8.9")
}

func TestNamedPortHasNumbersOfPods(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	run(t, time.Hour)
	createPod(t, c, namespace, "web", "web", "10.88.1.1")
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p"}, Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
		Egress: []networkingv1.NetworkPolicyEgressRule{{
			To: []networkingv1.NetworkPolicyPeer{{PodSelector: label("web")}}, Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("http"))}},
		}},
	}}
	kubetest.Create(t, c, p)
	compiled, errs := compile.NetworkPolicy(p)
	if len(errs) > 0 || len(compiled.Groups()) != 2 {
		t.Fatal(compiled.Groups(), errs)
	}
	for _, g := range compiled.Groups() {
		if g.Port != "" {
			has(t, c, g.Name(), "TCP 8080 10.88.1.1")
		} else {
			has(t, c, g.Name(), "10.88.1.1")
		}
	}
}

// The labels of a namespace move all of its pods.
func TestGroupFollowsNamespaces(t *testing.T) {
	c := kubetest.Client(t)
	namespace, other := kubetest.Namespace(t, c), kubetest.Namespace(t, c)
	run(t, time.Hour)
	createPod(t, c, other, "pod", "x", "10.88.2.1")
	p := allow(namespace, "p", "x")
	p.Spec.Ingress[0].From[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": namespace}}
	kubetest.Create(t, c, p)
	has(t, c, groupOf(t, p))
	object := &corev1.Namespace{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: other}, object); err != nil {
		t.Fatal(err)
	}
	object.Labels["team"] = namespace
	if err := c.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	has(t, c, groupOf(t, p), "10.88.2.1")
}

func TestUnusedGroupIsDeletedAndComesBack(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	run(t, 500*time.Millisecond)
	createPod(t, c, namespace, "pod", "x", "10.88.3.1")
	for range 2 {
		p := allow(namespace, "p", "x")
		group := groupOf(t, p)
		kubetest.Create(t, c, p)
		has(t, c, group, "10.88.3.1")
		kubetest.Remove(t, c, p)
		has(t, c, group, "gone")
	}
}

// A new leader writes what differs, and nothing else.
func TestRestartKeepsObjects(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	kept, changed, ended := allow(namespace, "kept", "kept"), allow(namespace, "changed", "changed"), allow(namespace, "ended", "ended")
	kubetest.Create(t, c, kept, changed, ended)
	createPod(t, c, namespace, "kept", "kept", "10.88.4.1")
	gone := createPod(t, c, namespace, "gone", "changed", "10.88.4.2")
	t.Run("first", func(t *testing.T) {
		run(t, time.Hour)
		has(t, c, groupOf(t, kept), "10.88.4.1")
		has(t, c, groupOf(t, changed), "10.88.4.2")
		has(t, c, groupOf(t, ended))
	})
	before := &v2beta1.SpiderPeerGroup{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: groupOf(t, kept)}, before); err != nil {
		t.Fatal(err)
	}
	kubetest.Remove(t, c, gone)
	kubetest.Remove(t, c, ended)
	createPod(t, c, namespace, "new", "changed", "10.88.4.3")
	t.Run("second", func(t *testing.T) {
		run(t, 500*time.Millisecond)
		has(t, c, groupOf(t, changed), "10.88.4.3")
		has(t, c, groupOf(t, ended), "gone")
	})
	after := &v2beta1.SpiderPeerGroup{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: groupOf(t, kept)}, after); err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the object was version %s, and is %s (%v)", before.ResourceVersion, after.ResourceVersion, err)
	}
}

func TestEditedObjectIsRepaired(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	run(t, 500*time.Millisecond)
	p := allow(namespace, "p", "x")
	kubetest.Create(t, c, p)
	createPod(t, c, namespace, "pod", "x", "10.88.5.1")
	group := groupOf(t, p)
	has(t, c, group, "10.88.5.1")
	object := &v2beta1.SpiderPeerGroup{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: group}, object); err != nil {
		t.Fatal(err)
	}
	object.Spec.IPs = []string{"10.88.5.9"}
	if err := c.Update(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	has(t, c, group, "10.88.5.1")
	if err := c.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	has(t, c, group, "10.88.5.1")
	foreign := compile.PeerGroupObject(compile.PeerSlice{Group: strings.Repeat("f", 40), Slices: 1})
	kubetest.Create(t, c, foreign)
	has(t, c, foreign.Name, "gone")
}

// A group of more than a thousand pods has several objects.
func TestLargeGroupHasSlices(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	const pods = compile.MaxPeers + 50
	kubetest.Each(t, pods, func(ctx context.Context, i int) error {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "x"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		if err := c.Create(ctx, pod); err != nil {
			return err
		}
		pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.89.%d.%d", i>>8, i&255)}}
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
		return c.Status().Update(ctx, pod)
	})
	run(t, time.Hour)
	p := allow(namespace, "p", "x")
	kubetest.Create(t, c, p)
	size := func(want ...int) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			first, second := &v2beta1.SpiderPeerGroup{}, &v2beta1.SpiderPeerGroup{}
			if err := c.Get(ctx, client.ObjectKey{Name: groupOf(t, p)}, first); err != nil {
				return err
			}
			got := []int{int(first.Spec.Slices), len(first.Spec.IPs)}
			if err := c.Get(ctx, client.ObjectKey{Name: compile.PeerGroupName(groupOf(t, p), 1)}, second); err == nil {
				got = append(got, len(second.Spec.IPs))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("slices and members are %v, want %v", got, want)
			}
			return nil
		})
	}
	size(2, 1000, 50)
	if err := c.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(namespace), client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	size(1, 0)
}

func TestDefinitionMayAppearLater(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	definition := kubetest.TakeDefinition(t, c, "clusternetworkpolicies.policy.networking.k8s.io")
	run(t, time.Hour)
	np := allow(namespace, "p", "x")
	kubetest.Create(t, c, np)
	has(t, c, groupOf(t, np))
	if err := c.Create(t.Context(), definition); err != nil { // for the other tests, too
		t.Fatal(err)
	}
	p := &npv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: npv1beta1.ClusterNetworkPolicySpec{
		Tier: npv1beta1.AdminTier, Subject: npv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Ingress: []npv1beta1.ClusterNetworkPolicyIngressRule{{Action: npv1beta1.ClusterNetworkPolicyRuleActionDeny, From: []npv1beta1.ClusterNetworkPolicyIngressPeer{
			{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}},
		}}},
	}}
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, p) })
	t.Cleanup(func() { kubetest.Remove(t, c, p) })
	createPod(t, c, namespace, "pod", "x", "10.88.6.1")
	compiled, _ := compile.ClusterNetworkPolicy(p)
	has(t, c, compiled.Groups()[0].Name(), "10.88.6.1")
}
