//go:build apiserver

package policyfault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	npv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"spiderpool.dev/spiderpool/internal/controller/policyfault"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/multipolicy"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func start(t *testing.T) client.Client {
	kubetest.Manager(t, func(mgr ctrl.Manager) (err error) {
		for _, r := range policyfault.All(status.NewWriter(mgr), mgr.GetAPIReader()) {
			err = errors.Join(err, r.Register(mgr))
		}
		return err
	})
	return kubetest.Client(t)
}

func multi(namespace, cidr string) *multipolicy.MultiNetworkPolicy {
	p := &multipolicy.MultiNetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "p", Annotations: map[string]string{"k8s.v1.cni.cncf.io/policy-for": "blue"},
	}}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}}}
	return p
}

func TestEventNamesInvalidPart(t *testing.T) {
	c := start(t)
	p := multi(kubetest.Namespace(t, c), "10.0.0.0/33")
	kubetest.Create(t, c, p)
	kubetest.Event(t, c, p, "InvalidPolicy", `spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0/33"`)
	p.Annotations = nil
	if err := c.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	kubetest.Event(t, c, p, "InvalidPolicy", "metadata.annotations[k8s.v1.cni.cncf.io/policy-for]: Required value")
}

// A restarted controller has told the faults before.
func TestRestartRepeatsNoEvent(t *testing.T) {
	c := start(t)
	namespace := kubetest.Namespace(t, c)
	p := multi(namespace, "10.0.0.0/33")
	selector := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like", Values: []string{"w"}}}}
	cluster := &npv1beta1.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec:       npv1beta1.ClusterNetworkPolicySpec{Tier: npv1beta1.AdminTier, Subject: npv1beta1.ClusterNetworkPolicySubject{Namespaces: &selector}},
	}
	cluster.Status.Conditions = []metav1.Condition{}
	kubetest.Create(t, c, p, cluster)
	for _, about := range []client.Object{p, cluster} {
		kubetest.Event(t, c, about, "InvalidPolicy", "Invalid value")
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(cluster), cluster); err != nil {
			return err
		}
		if len(cluster.Status.Conditions) == 0 {
			return errors.New("no condition yet")
		}
		return nil
	})
	start(t)
	// The second controller tells a later fault behind the former ones.
	last := multi(namespace, "10.0.0.0/34")
	last.Name = "q"
	kubetest.Create(t, c, last)
	kubetest.Event(t, c, last, "InvalidPolicy", "10.0.0.0/34")
	var list eventsv1.EventList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	count := map[types.UID]int{}
	for _, e := range list.Items {
		count[e.Regarding.UID]++
	}
	if count[p.UID] != 1 || count[cluster.UID] != 1 {
		t.Errorf("%d and %d events, want one each", count[p.UID], count[cluster.UID])
	}
}

func TestConditionShowsInvalidPart(t *testing.T) {
	c := start(t)
	selector := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like", Values: []string{"w"}}}}
	p := &npv1beta1.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: kubetest.Namespace(t, c)},
		Spec:       npv1beta1.ClusterNetworkPolicySpec{Tier: npv1beta1.AdminTier, Subject: npv1beta1.ClusterNetworkPolicySubject{Namespaces: &selector}},
	}
	p.Status.Conditions = []metav1.Condition{}
	kubetest.Create(t, c, p)
	const fault = "spec.subject.namespaceSelector.matchExpressions[0]: Invalid value"
	kubetest.Event(t, c, p, "InvalidPolicy", fault)
	condition := func(want metav1.ConditionStatus, part string) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
				return err
			}
			got := meta.FindStatusCondition(p.Status.Conditions, "spiderpool.spidernet.io/Valid")
			if got == nil || got.Status != want || got.ObservedGeneration != p.Generation || !strings.Contains(got.Message, part) {
				return fmt.Errorf("condition %+v, want %s %q", got, want, part)
			}
			return nil
		})
	}
	condition(metav1.ConditionFalse, fault)
	// Another implementation of the kind has a condition, too.
	meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{Type: "example.com/Ready", Status: metav1.ConditionTrue, Reason: "Programmed"})
	if err := c.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	p.Spec.Subject.Namespaces = &metav1.LabelSelector{}
	if err := c.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	condition(metav1.ConditionTrue, "")
	if meta.FindStatusCondition(p.Status.Conditions, "example.com/Ready") == nil {
		t.Errorf("the other condition is gone: %+v", p.Status.Conditions)
	}
}

// The API server refuses these specs in a NetworkPolicy, so only MultiNetworkPolicies have them.
func TestEachUncheckedFaultIsTold(t *testing.T) {
	c := start(t)
	namespace := kubetest.Namespace(t, c)
	from := func(peer networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{peer}}
	}
	port := func(p intstr.IntOrString, end *int32) networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{Ports: []networkingv1.NetworkPolicyPort{{Port: &p, EndPort: end}}}
	}
	unknown := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like", Values: []string{"w"}}}}
	for name, tc := range map[string]struct {
		spec networkingv1.NetworkPolicySpec
		want string
	}{
		"cidr": {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{from(networkingv1.NetworkPolicyPeer{
			IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0"}})}}, `spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.0"`},
		"except": {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{from(networkingv1.NetworkPolicyPeer{
			IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"192.0.2.0/24"}}})}}, `spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "192.0.2.0/24"`},
		"peer":     {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{from(networkingv1.NetworkPolicyPeer{})}}, "spec.ingress[0].from[0]: Required value"},
		"end-port": {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{port(intstr.FromInt32(90), new(int32(80)))}}, "spec.ingress[0].ports[0]: Invalid value"},
		"number":   {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{port(intstr.FromInt32(70000), nil)}}, "spec.ingress[0].ports[0]: Invalid value"},
		"name":     {networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{port(intstr.FromString("80"), nil)}}, `spec.ingress[0].ports[0].port: Invalid value: "80"`},
		"operator": {networkingv1.NetworkPolicySpec{PodSelector: unknown}, "spec.podSelector.matchExpressions[0]: Invalid value"},
		"types":    {networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Forward"}}, `spec.policyTypes[0]: Unsupported value: "Forward"`},
	} {
		t.Run(name, func(t *testing.T) {
			meta := metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{"k8s.v1.cni.cncf.io/policy-for": "blue"}}
			if err := c.Create(t.Context(), &networkingv1.NetworkPolicy{ObjectMeta: meta, Spec: tc.spec}); !apierrors.IsInvalid(err) {
				t.Errorf("a NetworkPolicy with it is not refused: %v", err)
			}
			p := &multipolicy.MultiNetworkPolicy{ObjectMeta: meta, Spec: tc.spec}
			kubetest.Create(t, c, p)
			kubetest.Event(t, c, p, "InvalidPolicy", tc.want)
		})
	}
}

func TestLaterDefinedKindIsWatched(t *testing.T) {
	c := kubetest.Client(t)
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "multi-networkpolicies.k8s.cni.cncf.io"}}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(definition), definition); err != nil {
		t.Fatal(err)
	}
	again := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: definition.Name}, Spec: definition.Spec}
	kubetest.Remove(t, c, definition)
	start(t)
	if err := c.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	p := multi(kubetest.Namespace(t, c), "")
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, p) })
	kubetest.Event(t, c, p, "InvalidPolicy", "ipBlock.cidr: Invalid value")
}
