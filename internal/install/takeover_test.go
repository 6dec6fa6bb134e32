//go:build apiserver

package install

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// takenPool creates a pool in which a pod of Spiderpool 1.2 has an address.
func takenPool(t *testing.T, c client.Client, name string) *v2beta1.SpiderIPPool {
	t.Helper()
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24"}},
	}
	kubetest.Create(t, c, pool)
	patch := client.RawPatch("application/merge-patch+json",
		[]byte(`{"status":{"allocatedIPCount":1,"allocatedIPs":"{\"10.0.0.1\":{\"pod\":\"default/old\",\"podUid\":\"1\"}}"}}`))
	if err := c.Status().Patch(t.Context(), pool, patch); err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestInstallOverAnotherReleaseFails(t *testing.T) {
	c := kubetest.Client(t)
	pool := takenPool(t, c, "taken")
	cfg := configuration(t, c)
	var out output
	err := Install(t.Context(), out.logger(), under(t, "spiderpool-init", cfg.PodNamespace), cfg)
	if err == nil || !strings.Contains(err.Error(), "SpiderIPPool taken has 1 addresses, e.g. 10.0.0.1 of pod default/old") {
		t.Errorf("got %v", err)
	}
	drained := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"allocatedIPCount":0,"allocatedIPs":"{}"}}`))
	if err := c.Status().Patch(t.Context(), pool, drained); err != nil {
		t.Fatal(err)
	}
	install(t, c, cfg)
}
