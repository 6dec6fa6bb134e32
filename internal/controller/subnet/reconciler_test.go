//go:build apiserver

package subnet_test

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
	"spiderpool.dev/spiderpool/internal/controller/subnet"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func newSubnet(name, network string, ips ...string) *v2beta1.SpiderSubnet {
	return &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SpiderSubnetSpec{AddressSpace: v2beta1.AddressSpace{Subnet: network, IPs: ips}}}
}

// ready waits for the condition; message is a part of it.
func ready(t *testing.T, c client.Client, s *v2beta1.SpiderSubnet, want metav1.ConditionStatus, reason, message string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		got := meta.FindStatusCondition(s.Status.Conditions, status.ConditionReady)
		if got == nil || got.Status != want || got.Reason != reason || got.ObservedGeneration != s.Generation || !strings.Contains(got.Message, message) {
			return fmt.Errorf("condition is %+v, want %s %s %q", got, want, reason, message)
		}
		return nil
	})
}

func TestSubnetStatusFollowsOthers(t *testing.T) {
	kubetest.Manager(t, func(mgr ctrl.Manager) error { return subnet.New(status.NewWriter(mgr)).Register(mgr) })
	c := kubetest.Client(t)
	first := newSubnet("first", "10.1.0.0/24", "10.1.0.1-10.1.0.20")
	first.Spec.Gateway, first.Spec.ExcludeIPs = new("10.1.0.1"), []string{"10.1.0.20"}
	kubetest.Create(t, c, first)
	ready(t, c, first, metav1.ConditionTrue, "Usable", "")
	if n := first.Status.TotalIPCount; n == nil || *n != 18 {
		t.Errorf("totalIPCount = %v, want 18", n)
	}
	second := newSubnet("second", "10.1.0.0/16", "10.1.0.5")
	kubetest.Create(t, c, second)
	ready(t, c, second, metav1.ConditionFalse, "Conflict", "overlaps subnet 10.1.0.0/24 of SpiderSubnet first")
	kubetest.Event(t, c, second, "Conflict", "of SpiderSubnet first")
	if err := c.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	ready(t, c, second, metav1.ConditionTrue, "Usable", "")
}

func TestInvalidSubnetIsReported(t *testing.T) {
	kubetest.Manager(t, func(mgr ctrl.Manager) error { return subnet.New(status.NewWriter(mgr)).Register(mgr) })
	c := kubetest.Client(t)
	inverted := newSubnet("inverted", "10.2.0.0/24", "10.2.0.9-10.2.0.1")
	kubetest.Create(t, c, inverted)
	const fault = `spec.ips[0]: Invalid value: "10.2.0.9-10.2.0.1": is inverted`
	ready(t, c, inverted, metav1.ConditionFalse, "Invalid", fault)
	kubetest.Event(t, c, inverted, "Invalid", fault)
}

func TestOlderSubnetWinsConflict(t *testing.T) {
	kubetest.Manager(t, func(mgr ctrl.Manager) error { return subnet.New(status.NewWriter(mgr)).Register(mgr) })
	c := kubetest.Client(t)
	older := newSubnet("z-older", "10.3.0.0/24", "10.3.0.1-10.3.0.10")
	kubetest.Create(t, c, older)
	ready(t, c, older, metav1.ConditionTrue, "Usable", "")
	kubetest.NextSecond(t)
	younger := newSubnet("a-younger", "10.3.0.0/24", "10.3.0.8-10.3.0.20")
	kubetest.Create(t, c, younger)
	ready(t, c, younger, metav1.ConditionFalse, "Conflict", `spec.ips: Invalid value: "10.3.0.8-10.3.0.20": shares 10.3.0.8-10.3.0.10 with SpiderSubnet z-older`)

	// A change of the older one has both looked at again.
	older.Spec.ExcludeIPs = []string{"10.3.0.1"}
	if err := c.Update(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	ready(t, c, older, metav1.ConditionTrue, "Usable", "")
	older.Spec.IPs = []string{"10.3.0.1-10.3.0.7"}
	if err := c.Update(t.Context(), older); err != nil {
		t.Fatal(err)
	}
	ready(t, c, younger, metav1.ConditionTrue, "Usable", "")
}
