//go:build apiserver

package kubetest_test

import (
	"context"
	"errors"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestCleanUpIgnoresFinalizers(t *testing.T) {
	c := kubetest.Client(t)
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "kept", Finalizers: []string{v2beta1.Finalizer}},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "192.0.2.0/24"}},
	}
	t.Run("create", func(t *testing.T) { kubetest.Create(t, c, pool) })
	kubetest.Eventually(t, func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKeyFromObject(pool), pool)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the pool is still there"), err)
	})
}

// A definition without its finalizer is gone at once, and its objects stay in etcd.
func TestDefinitionGoesWithItsObjects(t *testing.T) {
	c := kubetest.Client(t)
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		t.Run("define", func(t *testing.T) {
			kubetest.Create(t, c, kubetest.Definition(schema.GroupVersionKind{Group: "library.example.com", Version: "v1", Kind: "Shelf"}, "shelves"))
			shelf := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "library.example.com/v1", "kind": "Shelf", "metadata": map[string]any{"name": "a"},
			}}
			kubetest.Eventually(t, func(ctx context.Context) error { return c.Create(ctx, shelf.DeepCopy()) })
		})
	}
}
