package takenaddress

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

func node(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func poolOf(name, subnet, gateway string, ips ...string) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Subnet, p.Spec.IPs = subnet, ips
	if gateway != "" {
		p.Spec.Gateway = &gateway
	}
	return p
}

// reserved runs the reconciler and returns spec.ips by name.
func reserved(t *testing.T, r *Reconciler) map[string][]string {
	t.Helper()
	if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
		t.Fatal(err)
	}
	var list v2beta1.SpiderReservedIPList
	if err := r.client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, item := range list.Items {
		found[item.Name] = item.Spec.IPs
	}
	return found
}

func TestTakenAddressesAreReserved(t *testing.T) {
	index := poolindex.New()
	c := fake.NewClientBuilder().WithScheme(scheme.New()).Build()
	r := New(c, index, slog.New(slog.DiscardHandler))
	step := func(what string, want map[string][]string) {
		t.Helper()
		if diff := cmp.Diff(want, reserved(t, r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n1 := node("n1", "10.1.0.7", "fd00::7", "n1.example.org", "192.0.2.1")
	must(c.Create(t.Context(), n1))
	index.SetPool(poolOf("first", "10.1.0.0/24", "10.1.0.1", "10.1.0.1-10.1.0.5"))
	step("the own gateway, and nodes outside the pools", map[string][]string{})

	index.SetPool(poolOf("second", "10.1.0.0/24", "", "10.1.0.1-10.1.0.9"))
	index.SetPool(poolOf("six", "fd00::/64", "", "fd00::1-fd00::9"))
	step("a gateway and a node inside", map[string][]string{
		"spiderpool-taken-ipv4": {"10.1.0.1", "10.1.0.7"}, "spiderpool-taken-ipv6": {"fd00::7"},
	})

	must(c.Create(t.Context(), node("n2", "10.1.0.8")))
	step("one more node", map[string][]string{
		"spiderpool-taken-ipv4": {"10.1.0.1", "10.1.0.7-10.1.0.8"}, "spiderpool-taken-ipv6": {"fd00::7"},
	})

	changed := &v2beta1.SpiderReservedIP{}
	must(c.Get(t.Context(), client.ObjectKey{Name: "spiderpool-taken-ipv4"}, changed))
	changed.Spec.IPs = []string{"10.1.0.9"}
	must(c.Update(t.Context(), changed))
	must(c.Delete(t.Context(), n1))
	excluding := poolOf("second", "10.1.0.0/24", "", "10.1.0.1-10.1.0.9")
	excluding.Spec.ExcludeIPs = []string{"10.1.0.1"}
	index.SetPool(excluding)
	step("changed by a user, a node gone, the gateway excluded", map[string][]string{"spiderpool-taken-ipv4": {"10.1.0.8"}})

	index.DeletePool("second")
	step("no pool lists them", map[string][]string{})
}

func TestNodeWithholdsFewAddresses(t *testing.T) {
	var addresses []string
	for i := range 3 * maxOfNode {
		addresses = append(addresses, fmt.Sprintf("10.1.0.%d", i))
	}
	if n := addressesOf(node("n1", addresses...)).Count(); n != maxOfNode {
		t.Errorf("%d addresses count, want %d", n, maxOfNode)
	}
}
