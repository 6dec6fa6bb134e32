//go:build apiserver

package reservedip_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/reservedip"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestConditionFollowsAddresses(t *testing.T) {
	kubetest.Manager(t, func(mgr ctrl.Manager) error { return reservedip.New(status.NewWriter(mgr)).Register(mgr) })
	c := kubetest.Client(t)
	reserved := &v2beta1.SpiderReservedIP{
		ObjectMeta: metav1.ObjectMeta{Name: "reserved"}, Spec: v2beta1.SpiderReservedIPSpec{IPs: []string{"10.0.0.9-10.0.0.1"}},
	}
	kubetest.Create(t, c, reserved)
	ready := func(want metav1.ConditionStatus, reason, message string) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(reserved), reserved); err != nil {
				return err
			}
			got := meta.FindStatusCondition(reserved.Status.Conditions, status.ConditionReady)
			if got == nil || got.Status != want || got.Reason != reason || got.ObservedGeneration != reserved.Generation || !strings.Contains(got.Message, message) {
				return fmt.Errorf("condition is %+v, want %s %s %q", got, want, reason, message)
			}
			return nil
		})
	}
	const fault = `spec.ips[0]: Invalid value: "10.0.0.9-10.0.0.1": is inverted`
	ready(metav1.ConditionFalse, "Invalid", fault)
	kubetest.Event(t, c, reserved, "Invalid", fault)
	reserved.Spec.IPs = []string{"10.0.0.1-10.0.0.9"}
	if err := c.Update(t.Context(), reserved); err != nil {
		t.Fatal(err)
	}
	ready(metav1.ConditionTrue, "Reserved", "")
}
