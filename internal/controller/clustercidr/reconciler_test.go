//go:build apiserver

package clustercidr_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/clustercidr"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// services are the networks that kubetest starts the API server with.
var services = []string{"10.96.0.0/16", "fd00:10:96::/112"}

func start(t *testing.T) client.Client {
	t.Helper()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return clustercidr.New(status.NewWriter(mgr), mgr.GetAPIReader(), clustercidr.Options{
			Name: "default", CiliumConfigMap: client.ObjectKey{Namespace: "kube-system", Name: "cilium-config"},
		}).Register(mgr)
	})
	return kubetest.Client(t)
}

func create(t *testing.T, c client.Client, kind v2beta1.PodCIDRType) *v2beta1.SpiderCoordinator {
	t.Helper()
	object := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v2beta1.CoordinatorSpec{PodCIDRType: &kind}}
	kubetest.Create(t, c, object)
	return object
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Data: data}
}

func eventually(t *testing.T, c client.Client, object *v2beta1.SpiderCoordinator, phase v2beta1.CoordinatorPhase, reason string, pods []string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		s := object.Status
		ready := meta.IsStatusConditionTrue(s.Conditions, status.ConditionReady)
		if s.Phase != phase || !strings.Contains(s.Reason, reason) || ready != (phase == v2beta1.CoordinatorSynced) || !slices.Equal(s.OverlayPodCIDR, pods) {
			return fmt.Errorf("status is %+v, want %s %q %v", s, phase, reason, pods)
		}
		return nil
	})
}

func TestStatusFollowsNetworks(t *testing.T) {
	c := start(t)
	object := create(t, c, v2beta1.PodCIDRAuto)
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", nil)
	if !slices.Equal(object.Status.ServiceCIDR, services) {
		t.Errorf("serviceCIDR = %v, want those of the ServiceCIDR objects, %v", object.Status.ServiceCIDR, services)
	}
	kubetest.Create(t, c, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24", PodCIDRs: []string{"10.244.0.0/24"}}})
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.244.0.0/24"})

	kubetest.Create(t, c, configMap("kubeadm-config", map[string]string{"ClusterConfiguration": "networking: {podSubnet: \"10.244.0.0/16,fd00:244::/56\", serviceSubnet: 10.96.0.0/12}"}))
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.244.0.0/16", "fd00:244::/56"})

	kubetest.Create(t, c, configMap("cilium-config", map[string]string{"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.0.0.0/9 10.128.0.0/9"}))
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.0.0.0/8"})
}

func TestLateCalicoIsFound(t *testing.T) {
	c := start(t)
	object := create(t, c, v2beta1.PodCIDRCalico)
	eventually(t, c, object, v2beta1.CoordinatorNotReady, "spec.podCIDRType is calico, but the cluster has no IPPool", nil)
	kubetest.Event(t, c, object, "NotReady", "spec.podCIDRType is calico, but the cluster has no IPPool")

	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	kubetest.Create(t, c, kubetest.Definition(schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "IPPool"}, "ippools"))
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
		"metadata": map[string]any{"name": "default-ipv4"}, "spec": map[string]any{"cidr": "192.168.0.0/16"},
	}}
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, pool.DeepCopy()) })
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"192.168.0.0/16"})
}

func TestLateCiliumPoolIsFound(t *testing.T) {
	c := start(t)
	kubetest.Create(t, c, configMap("cilium-config", map[string]string{"ipam": "multi-pool"}))
	object := create(t, c, v2beta1.PodCIDRCilium)
	eventually(t, c, object, v2beta1.CoordinatorNotReady, "multi-pool", nil)

	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	kubetest.Create(t, c, kubetest.Definition(schema.GroupVersionKind{Group: "cilium.io", Version: "v2alpha1", Kind: "CiliumPodIPPool"}, "ciliumpodippools"))
	pool := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": map[string]any{"name": "default"},
		"spec": map[string]any{"ipv4": map[string]any{"cidrs": []any{"10.10.0.0/16"}}},
	}}
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, pool.DeepCopy()) })
	eventually(t, c, object, v2beta1.CoordinatorSynced, "", []string{"10.10.0.0/16"})
}

func TestOtherCoordinatorsAreReported(t *testing.T) {
	c := start(t)
	other := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	kubetest.Create(t, c, other)
	eventually(t, c, other, v2beta1.CoordinatorNotReady, `only the SpiderCoordinator "default" is used`, nil)
	kubetest.Event(t, c, other, "NotReady", `only the SpiderCoordinator "default" is used`)
}
