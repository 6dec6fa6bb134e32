//go:build apiserver

package poolstatus

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
)

func TestUncachedLeaseBlocksDeletion(t *testing.T) {
	c, err := client.NewWithWatch(kubetest.Config(t), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	// The cache has seen no block yet.
	behind := interceptor.NewClient(c, interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if _, blocks := list.(*v2beta1.SpiderIPBlockList); blocks {
			return nil
		}
		return c.List(ctx, list, options...)
	}})
	r := &Reconciler{client: behind, live: c, log: slog.New(slog.DiscardHandler)}
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{v2beta1.Finalizer}}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.9.0.0/24"}},
	}
	block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("10.9.0.16"), Leases: []lease.Lease{{
		Addr: netip.MustParseAddr("10.9.0.20"), State: lease.InUse, Pool: "held", Since: time.Unix(1700000000, 0).UTC(),
		Holder: lease.Holder{Pod: lease.ParsePodKey("default/web"), PodUID: "u", Node: "n1", Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"}},
	}}})
	kubetest.Create(t, c, pool, block)
	if err := c.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	request := ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pool)}
	if _, err := r.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), request.NamespacedName, pool); err != nil {
		t.Fatalf("the pool went with a lease of it held: %v", err)
	}
	if err := c.Delete(t.Context(), block); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), request.NamespacedName, pool); !apierrors.IsNotFound(err) {
		t.Errorf("the pool is still there: %v", err)
	}
}
