//go:build apiserver

package kubetest_test

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
