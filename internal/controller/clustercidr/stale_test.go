//go:build apiserver

package clustercidr_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// condition waits for the condition Ready of the object's generation, and for the
// phase that goes with it.
func condition(t *testing.T, c client.Client, object *v2beta1.SpiderCoordinator, phase v2beta1.CoordinatorPhase, reason, message string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		got := meta.FindStatusCondition(object.Status.Conditions, status.ConditionReady)
		if got == nil || got.Reason != reason || !strings.Contains(got.Message, message) || got.ObservedGeneration != object.Generation || object.Status.Phase != phase {
			return fmt.Errorf("status is %+v, want %s and the condition %s %q of generation %d", object.Status, phase, reason, message, object.Generation)
		}
		return nil
	})
}

// change writes another specification.
func change(t *testing.T, c client.Client, object *v2beta1.SpiderCoordinator, f func(*v2beta1.CoordinatorSpec)) {
	t.Helper()
	patch := client.MergeFrom(object.DeepCopy())
	f(&object.Spec)
	if err := c.Patch(t.Context(), object, patch); err != nil {
		t.Fatal(err)
	}
}

func TestNetworksSurviveUnreadableSource(t *testing.T) {
	c := start(t)
	kubeadm := configMap("kubeadm-config", map[string]string{"ClusterConfiguration": "networking: {podSubnet: 10.244.0.0/16}"})
	kubetest.Create(t, c, kubeadm)
	object := create(t, c, v2beta1.PodCIDRCluster)
	pods := []string{"10.244.0.0/16"}
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", pods)
	rewrite := func(text string) {
		t.Helper()
		kubeadm.Data["ClusterConfiguration"] = text
		if err := c.Update(t.Context(), kubeadm); err != nil {
			t.Fatal(err)
		}
	}
	kept := func() {
		t.Helper()
		if s := object.Status; !slices.Equal(s.OverlayPodCIDR, pods) || !slices.Equal(s.ServiceCIDR, services) || s.Reason != "" {
			t.Errorf("status is %+v, want the last known networks", s)
		}
	}
	const fault = "podSubnet in ConfigMap kube-system/kubeadm-config cannot be read"
	rewrite("networking: [")
	condition(t, c, object, v2beta1.CoordinatorSynced, "Stale", "using the last known networks: overlayPodCIDR: "+fault)
	kept()
	kubetest.Event(t, c, object, "Stale", fault)
	rewrite("networking: {{")
	condition(t, c, object, v2beta1.CoordinatorSynced, "Stale", fault)
	kept()

	// The networks of a former specification do not count for a new one.
	change(t, c, object, func(s *v2beta1.CoordinatorSpec) { s.PodCIDRType = new(v2beta1.PodCIDRAuto) })
	condition(t, c, object, v2beta1.CoordinatorNotReady, "NotReady", fault)
	if !strings.Contains(object.Status.Reason, fault) || len(object.Status.OverlayPodCIDR) > 0 {
		t.Errorf("status is %+v, want the reason %q and no networks of pods", object.Status, fault)
	}
	kubetest.Event(t, c, object, "NotReady", fault)
	rewrite("networking: {podSubnet: 10.245.0.0/16}")
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.245.0.0/16"})
}

// A source that says that there is nothing is no source that cannot be read.
func TestRemovedNetworksAreReported(t *testing.T) {
	c := start(t)
	kubeadm := configMap("kubeadm-config", map[string]string{"ClusterConfiguration": "networking: {podSubnet: 10.244.0.0/16}"})
	kubetest.Create(t, c, kubeadm)
	object := create(t, c, v2beta1.PodCIDRCluster)
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.244.0.0/16"})
	if err := c.Delete(t.Context(), kubeadm); err != nil {
		t.Fatal(err)
	}
	condition(t, c, object, v2beta1.CoordinatorNotReady, "NotReady", "overlayPodCIDR: not found in any of: podSubnet in ConfigMap kube-system/kubeadm-config")
	if len(object.Status.OverlayPodCIDR) > 0 {
		t.Errorf("status is %+v, want no networks of pods", object.Status)
	}
}

func TestAddedServiceNetworkIsFound(t *testing.T) {
	c := start(t)
	object := create(t, c, v2beta1.PodCIDRNone)
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", nil)
	is := func(want ...string) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
			if !slices.Equal(object.Status.ServiceCIDR, want) {
				return fmt.Errorf("serviceCIDR is %v, want %v", object.Status.ServiceCIDR, want)
			}
			return nil
		})
	}
	is(services...)
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.112.0.0/16"}}}
	kubetest.Create(t, c, more)
	is("10.96.0.0/16", "10.112.0.0/16", "fd00:10:96::/112")
	kubetest.Remove(t, c, more)
	is(services...)
}

// withoutRules has the API server take any SpiderCoordinator while f runs, as one
// did before there were rules.
func withoutRules(t *testing.T, c client.Client, f func()) {
	t.Helper()
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "spidercoordinators.spiderpool.spidernet.io"}}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(definition), definition); err != nil {
		t.Fatal(err)
	}
	ruled := *definition.Spec.Versions[0].Schema.DeepCopy()
	replace := func(schema apiextensionsv1.CustomResourceValidation) {
		t.Helper()
		definition.Spec.Versions[0].Schema = &schema
		if err := c.Update(t.Context(), definition); err != nil {
			t.Fatal(err)
		}
	}
	rulesHold := func(want bool) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			bad := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v2beta1.CoordinatorSpec{HijackCIDR: []string{"x"}}}
			if err := c.Create(ctx, bad, client.DryRunAll); (err != nil) != want {
				return fmt.Errorf("rules hold: %t, want %t: %w", !want, want, errors.Join(err, errors.New("accepted or refused")))
			}
			return nil
		})
	}
	keep := true
	replace(apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}})
	rulesHold(false)
	f()
	replace(ruled)
	rulesHold(true)
}

func TestInvalidCoordinatorStillGetsNetworks(t *testing.T) {
	c := start(t)
	object := &v2beta1.SpiderCoordinator{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec:       v2beta1.CoordinatorSpec{PodCIDRType: new(v2beta1.PodCIDRNone), HostRuleTable: new(254), HijackCIDR: []string{"10.0.0"}},
	}
	withoutRules(t, c, func() { kubetest.Create(t, c, object) })
	const fault = "spec.hostRuleTable: Invalid value: 254: use a table above 0 other than 253 (default), 254 (main) and 255 (local), e.g. 500"
	condition(t, c, object, v2beta1.CoordinatorSynced, "Invalid", fault)
	condition(t, c, object, v2beta1.CoordinatorSynced, "Invalid", `spec.hijackCIDR[0]: Invalid value: "10.0.0": is not a network in CIDR notation`)
	if !slices.Equal(object.Status.ServiceCIDR, services) || object.Status.Reason != "" {
		t.Errorf("status is %+v, want the networks of services %v", object.Status, services)
	}
	kubetest.Event(t, c, object, "Invalid", fault)

	// The status follows the cluster all the same.
	kubetest.Create(t, c, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.113.0.0/16"}}})
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		if !slices.Contains(object.Status.ServiceCIDR, "10.113.0.0/16") {
			return fmt.Errorf("status is %+v, want 10.113.0.0/16 among the networks of services", object.Status)
		}
		return nil
	})
	change(t, c, object, func(s *v2beta1.CoordinatorSpec) { s.HostRuleTable, s.HijackCIDR = new(500), nil })
	condition(t, c, object, v2beta1.CoordinatorSynced, "Synced", "")
}
