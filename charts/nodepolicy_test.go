//go:build apiserver

package charts

import (
	"context"
	"errors"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// The right "patch nodes/status" reaches further than the addresses of the node; the policy does not.
func TestControllerWritesOnlyAddressesOfNodes(t *testing.T) {
	admin := kubetest.Client(t)
	manifest := render(t, "--set", "addressResource.enabled=true")
	const name = "spiderpool-nodes"
	role := objectsOf[rbacv1.ClusterRole](t, manifest, "ClusterRole")["spiderpool-controller"]
	binding := objectsOf[rbacv1.ClusterRoleBinding](t, manifest, "ClusterRoleBinding")["spiderpool-controller"]
	policy := objectsOf[admissionv1.ValidatingAdmissionPolicy](t, manifest, "ValidatingAdmissionPolicy")[name]
	bound := objectsOf[admissionv1.ValidatingAdmissionPolicyBinding](t, manifest, "ValidatingAdmissionPolicyBinding")[name]
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "policy-1", Labels: map[string]string{"zone": "a"}}}
	kubetest.Create(t, admin, &role, &binding, &policy, &bound, node)
	const kubelet = `{"status":{"capacity":{"cpu":"4"},"allocatable":{"cpu":"3"},"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`
	patch := func(ctx context.Context, c client.Client, text string) error {
		return c.Status().Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}, client.RawPatch(types.MergePatchType, []byte(text)))
	}
	if err := patch(t.Context(), admin, kubelet); err != nil {
		t.Fatal(err)
	}
	controller := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", ""))
	refuses := func(err error) bool {
		return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+name+"'") && !strings.Contains(err.Error(), "resulted in error")
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := patch(ctx, controller, `{"metadata":{"labels":{"stolen":"yes"}}}`); !refuses(err) {
			return errors.Join(errors.New("the policy is not in force"), err)
		}
		return nil
	})
	for _, text := range []string{
		`{"status":{"capacity":{"cpu":"5"}}}`, `{"status":{"allocatable":{"cpu":null}}}`, `{"status":{"capacity":{"example.org/gpu":"1"}}}`,
		`{"status":{"conditions":null}}`, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.9"}]}}`, `{"status":{"nodeInfo":{"kubeletVersion":"v9"}}}`,
		`{"metadata":{"labels":{"zone":"b"}}}`, `{"metadata":{"annotations":{"a":"b"}}}`, `{"metadata":{"finalizers":["example.org/a"]}}`,
	} {
		if err := patch(t.Context(), controller, text); !refuses(err) {
			t.Errorf("the controller may write %s: %v", text, err)
		}
	}
	const ours = `{"status":{"capacity":{"addresses.ipam.spidernet.io/a.b":"4"},"allocatable":{"addresses.ipam.spidernet.io/a.b":"4"}}}`
	for what, text := range map[string]string{"add": ours, "change": strings.ReplaceAll(ours, `"4"`, `"5"`), "remove": strings.ReplaceAll(ours, `"4"`, `null`)} {
		if err := patch(t.Context(), controller, text); err != nil {
			t.Errorf("%s addresses: %v", what, err)
		}
	}
	if err := patch(t.Context(), admin, strings.ReplaceAll(kubelet, `"4"`, `"8"`)); err != nil {
		t.Errorf("another client: %v", err)
	}
}
