//go:build apiserver

package policyview_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/agent/policyview"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// agent is a View of a node with its connections to the API server.
type agent struct {
	*policyview.View
	away atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
	told  map[string]int // calls of Changed, by pod
}

// start starts the view of a node. The returned function ends it.
func start(t *testing.T, node string, away bool) (*agent, func()) {
	t.Helper()
	a := &agent{told: map[string]int{}}
	a.away.Store(away)
	server := kubetest.Role(t, "spiderpool-agent", "kube-system", node)
	server.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if a.away.Load() {
			return nil, errors.New("connection refused by the test")
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.conns = append(a.conns, conn)
		}
		return conn, err
	}
	client, err := agentclient.NewClient(server)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	cluster := agentclient.NewCluster(client, node, log)
	a.View = policyview.New(policyview.Options{Client: client, Cluster: cluster, Log: log, Changed: func(pod lease.PodKey) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.told[pod.String()]++
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { cluster.Run(ctx) })
	parts.Go(func() { a.Run(ctx) })
	stop := sync.OnceFunc(func() {
		cancel()
		parts.Wait()
	})
	t.Cleanup(stop)
	return a, stop
}

// off begins an outage of the API server.
func (a *agent) off() {
	a.away.Store(true)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, conn := range a.conns {
		_ = conn.Close()
	}
	a.conns = nil
}

func (a *agent) calls(pod ipam.Pod) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told[pod.PodKey.String()]
}

// decides waits for a decision about eth0, in one line; "?" with a part of an error.
func (a *agent) decides(t *testing.T, pod ipam.Pod, want string) {
	t.Helper()
	a.decidesOn(t, pod, policy.Interface{Name: "eth0", Default: true}, want)
}

// decidesOn is decides for another interface.
func (a *agent) decidesOn(t *testing.T, pod ipam.Pod, at policy.Interface, want string) {
	t.Helper()
	kubetest.Eventually(t, func(context.Context) error {
		all, unknown := a.Decide(pod, []policy.Interface{at})
		sets, err := all[0], unknown[0]
		got := strings.ReplaceAll(strings.TrimSpace(sets.String()), "\n", "; ")
		if err != nil {
			got = "? " + err.Error()
		}
		if got == want || strings.HasPrefix(want, "?") && strings.HasPrefix(got, "?") && strings.Contains(got, strings.TrimPrefix(want, "? ")) {
			return nil
		}
		return fmt.Errorf("got %s, want %s", got, want)
	})
}

func label(app string) map[string]string { return map[string]string{"app": app} }

func pod(namespace, name, app string) ipam.Pod {
	return ipam.Pod{PodKey: lease.PodKey{Namespace: namespace, Name: name}, UID: name, Labels: label(app)}
}

// allow returns a policy that lets pods with the label client reach pods with the label web.
func allow(namespace string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: label("web")},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: label("client")}}}}},
		},
	}
}

// slice is an object of the group of allow, as the controller writes it.
func slice(t *testing.T, p *networkingv1.NetworkPolicy, index, counted int, addrs ...string) *v2beta1.SpiderPeerGroup {
	t.Helper()
	compiled, errs := compile.NetworkPolicy(p)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s := compile.PeerSlice{Group: compiled.Groups()[0].Name(), Index: index, Slices: counted}
	for _, addr := range addrs {
		s.Members = append(s.Members, policy.Member{Addr: netip.MustParseAddr(addr)})
	}
	return compile.PeerGroupObject(s)
}

// update replaces the content of an object.
func update(t *testing.T, c client.Client, object *v2beta1.SpiderPeerGroup) {
	t.Helper()
	stored := &v2beta1.SpiderPeerGroup{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
		t.Fatal(err)
	}
	stored.Spec = object.Spec
	if err := c.Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
}

const isolated = "ingress isolated; ingress any %s; egress open"

// Two nodes follow one group, which grows, shrinks, ends and comes back, and an API outage changes nothing.
func TestNodesFollowGroup(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	p := allow(namespace)
	kubetest.Create(t, c, p)
	one, _ := start(t, "one", false)
	two, _ := start(t, "two", false)
	agents := []*agent{one, two}
	web, other := pod(namespace, "web", "web"), pod(namespace, "other", "other")
	all := func(want string) {
		t.Helper()
		for _, a := range agents {
			a.decides(t, web, want)
			a.decides(t, other, "ingress open; egress open")
		}
	}
	all("? peer group")
	kubetest.Create(t, c, slice(t, p, 0, 1, "10.90.0.1"))
	all(fmt.Sprintf(isolated, "10.90.0.1"))
	// A second object exists before the first one counts it.
	kubetest.Create(t, c, slice(t, p, 1, 0, "10.90.0.3"))
	update(t, c, slice(t, p, 0, 1, "10.90.0.1", "10.90.0.2"))
	all(fmt.Sprintf(isolated, "10.90.0.1-10.90.0.2"))
	update(t, c, slice(t, p, 0, 2, "10.90.0.1"))
	all(fmt.Sprintf(isolated, "10.90.0.1, 10.90.0.3"))
	update(t, c, slice(t, p, 1, 0, "10.90.0.3", "10.90.0.5"))
	all(fmt.Sprintf(isolated, "10.90.0.1, 10.90.0.3, 10.90.0.5"))
	// Somebody deletes an object that counts.
	calls := one.calls(web)
	kubetest.Remove(t, c, slice(t, p, 1, 0))
	update(t, c, slice(t, p, 0, 2, "10.90.0.7"))
	all(fmt.Sprintf(isolated, "10.90.0.3, 10.90.0.5, 10.90.0.7"))
	if one.calls(web) == calls {
		t.Error("the change was not told")
	}
	update(t, c, slice(t, p, 0, 1, "10.90.0.7"))
	all(fmt.Sprintf(isolated, "10.90.0.7"))

	one.off()
	update(t, c, slice(t, p, 0, 1, "10.90.0.9"))
	two.decides(t, web, fmt.Sprintf(isolated, "10.90.0.9"))
	one.decides(t, web, fmt.Sprintf(isolated, "10.90.0.7"))
	restarted, stop := start(t, "one", true)
	restarted.decides(t, web, "? not received yet")
	restarted.decides(t, other, "? not received yet")
	restarted.away.Store(false)
	restarted.decides(t, web, fmt.Sprintf(isolated, "10.90.0.9"))
	stop()
	one.away.Store(false)
	all(fmt.Sprintf(isolated, "10.90.0.9"))

	kubetest.Remove(t, c, slice(t, p, 0, 1))
	all("? peer group")
	kubetest.Create(t, c, slice(t, p, 1, 0, "10.90.0.11"), slice(t, p, 0, 2))
	all(fmt.Sprintf(isolated, "10.90.0.11"))
	if n := one.calls(other) + two.calls(other); n > 2 {
		t.Errorf("the pods without a policy were told about %d times, want once each, for the first lists", n)
	}
	kubetest.Remove(t, c, p)
	all("ingress open; egress open")
}

func TestDefinitionMayAppearLater(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	definition := kubetest.TakeDefinition(t, c, "clusternetworkpolicies.policy.networking.k8s.io")
	a, _ := start(t, "later", false)
	web := pod(namespace, "web", "web")
	a.decides(t, web, "ingress open; egress open")
	again := definition.DeepCopy()
	if err := c.Create(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	deny := &npv1beta1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: npv1beta1.ClusterNetworkPolicySpec{
		Tier:    npv1beta1.AdminTier,
		Subject: npv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}},
		Egress: []npv1beta1.ClusterNetworkPolicyEgressRule{{
			Action: npv1beta1.ClusterNetworkPolicyRuleActionDeny, To: []npv1beta1.ClusterNetworkPolicyEgressPeer{{Networks: []npv1beta1.CIDR{"0.0.0.0/0"}}},
		}},
	}}
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, deny) })
	a.decides(t, web, "ingress open; egress isolated; egress any ::/0")
	// The definition and its objects go while the agent is cut off.
	a.off()
	kubetest.Remove(t, c, deny)
	kubetest.Remove(t, c, definition.DeepCopy())
	a.decides(t, web, "ingress open; egress isolated; egress any ::/0")
	a.away.Store(false)
	a.decides(t, web, "ingress open; egress open")
	if err := c.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
}

func TestMultiDefinitionMayAppearLater(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	definition := kubetest.TakeDefinition(t, c, "multi-networkpolicies.k8s.cni.cncf.io")
	a, _ := start(t, "multi", false)
	web := pod(namespace, "web", "web")
	net1 := policy.Interface{Name: "net1", Network: policy.Name{Namespace: namespace, Name: "storage"}}
	a.decidesOn(t, web, net1, "ingress open; egress open")
	again := definition.DeepCopy()
	if err := c.Create(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	closed := &multipolicy.MultiNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: multipolicy.GroupVersion.String(), Kind: "MultiNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Annotations: map[string]string{names.AnnotationPolicyFor: "storage"}},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: label("web")}},
	}
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, closed) })
	a.decidesOn(t, web, net1, "ingress isolated; egress open")
	a.decides(t, web, "ingress open; egress open")
	kubetest.Remove(t, c, closed)
	a.decidesOn(t, web, net1, "ingress open; egress open")
	kubetest.Remove(t, c, definition.DeepCopy())
	if err := c.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
}

// Without the kind in our version, policies of another version must not read as none.
func TestOtherVersionIsUnknown(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	definition := kubetest.TakeDefinition(t, c, "clusternetworkpolicies.policy.networking.k8s.io")
	later := definition.DeepCopy()
	later.Spec.Versions[0].Name, later.Spec.Conversion = "v1", nil
	kubetest.Create(t, c, later)
	kubetest.Eventually(t, func(ctx context.Context) error { return c.List(ctx, listOf("v1")) })
	a, _ := start(t, "version", false)
	web := pod(namespace, "web", "web")
	a.decides(t, web, "? not received yet: ClusterNetworkPolicies")
	kubetest.Remove(t, c, later)
	if err := c.Create(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	a.decides(t, web, "ingress open; egress open")
}

func listOf(version string) *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersion(npv1beta1.GroupVersion).WithKind("ClusterNetworkPolicyList"))
	list.APIVersion = npv1beta1.GroupName + "/" + version
	return list
}

func TestNamedPortsAreThoseOfThePod(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	p := allow(namespace)
	http := intstr.FromString("http")
	p.Spec.Ingress[0] = networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}}
	kubetest.Create(t, c, p)
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: label("web")},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
	}
	kubetest.Create(t, c, object)
	a, _ := start(t, "ports", false)
	web := pod(namespace, "web", "web")
	web.UID = string(object.UID)
	a.decides(t, web, "ingress isolated; ingress TCP 8080 0.0.0.0/0, ::/0; egress open")
	web.UID = "another"
	a.decides(t, web, "? named ports")
}
