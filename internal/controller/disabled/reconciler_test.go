//go:build apiserver

package disabled_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/disabled"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestDisabledFeatureIsReported(t *testing.T) {
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		w := status.NewWriter(mgr)
		return errors.Join(
			disabled.New(w, "subnet", &v2beta1.SpiderSubnet{}, "ipam.spiderSubnet.enable").Register(mgr),
			disabled.New(w, "multusconfig", &v2beta1.SpiderMultusConfig{}, "multus.enableMultusConfig").Register(mgr),
			disabled.New(w, "cloudnetwork", &v2beta1.SpiderCloudNetwork{}, "cloud.enabled").Register(mgr),
			disabled.New(w, "coordinator", &v2beta1.SpiderCoordinator{}, "coordinator.enabled").Register(mgr),
		)
	})
	c := kubetest.Client(t)
	subnet := &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "off"}}
	subnet.Spec.Subnet = "10.0.0.0/24"
	config := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "off"}}
	coordinator := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "off"}}
	network := &v2beta1.SpiderCloudNetwork{ObjectMeta: metav1.ObjectMeta{Name: "off"}}
	network.Spec.Provider = v2beta1.CloudAWS
	network.Spec.Interfaces = []v2beta1.CloudInterface{{MultusName: "kube-system/ipvlan-ens5"}}
	for _, kind := range []struct {
		object     client.Object
		conditions *[]metav1.Condition
		value      string
	}{
		{subnet, &subnet.Status.Conditions, "ipam.spiderSubnet.enable"},
		{config, &config.Status.Conditions, "multus.enableMultusConfig"},
		{network, &network.Status.Conditions, "cloud.enabled"},
		{coordinator, &coordinator.Status.Conditions, "coordinator.enabled"},
	} {
		t.Run(kind.value, func(t *testing.T) {
			off := kind.value + "=false"
			kubetest.Create(t, c, kind.object)
			kubetest.Eventually(t, func(ctx context.Context) error {
				if err := c.Get(ctx, client.ObjectKeyFromObject(kind.object), kind.object); err != nil {
					return err
				}
				got := meta.FindStatusCondition(*kind.conditions, status.ConditionReady)
				if got == nil || got.Status != metav1.ConditionFalse || got.Reason != "SwitchedOff" || !strings.Contains(got.Message, off) {
					return fmt.Errorf("condition is %+v", got)
				}
				return nil
			})
			kubetest.Event(t, c, kind.object, "SwitchedOff", off)
			if kind.object != client.Object(network) {
				return
			}
			// The feature was on before, and the network degraded.
			meta.SetStatusCondition(&network.Status.Conditions, metav1.Condition{Type: status.ConditionDegraded, Status: metav1.ConditionTrue, Reason: "TypeLimit"})
			if err := c.Status().Update(t.Context(), network); err != nil {
				t.Fatal(err)
			}
			kubetest.Eventually(t, func(ctx context.Context) error {
				if err := c.Get(ctx, client.ObjectKeyFromObject(network), network); err != nil {
					return err
				}
				if len(network.Status.Conditions) != 1 {
					return fmt.Errorf("the conditions are %+v", network.Status.Conditions)
				}
				return nil
			})
		})
	}
	if coordinator.Status.Phase != v2beta1.CoordinatorNotReady || !strings.Contains(coordinator.Status.Reason, "coordinator.enabled=false") {
		t.Errorf("status of the SpiderCoordinator is %+v", coordinator.Status)
	}
}
