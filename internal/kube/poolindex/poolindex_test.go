//go:build apiserver

package poolindex_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestIndexIsSyncedAfterItsCache(t *testing.T) {
	kubetest.Create(t, kubetest.Client(t), &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "slow"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24"}},
	})
	index := poolindex.New()
	proceed := make(chan struct{})
	release := sync.OnceFunc(func() { close(proceed) })
	index.Subscribe(func([]string) { <-proceed })
	kubetest.Manager(t, func(mgr ctrl.Manager) error { return index.Watch(t.Context(), mgr.GetCache()) })
	t.Cleanup(release) // before the manager is stopped
	if index.Synced() {
		t.Error("the index is synced before it holds the first pool")
	}
	release()
	kubetest.Eventually(t, func(context.Context) error {
		if !index.Synced() {
			return errors.New("the index is not synced")
		}
		return nil
	})
}
