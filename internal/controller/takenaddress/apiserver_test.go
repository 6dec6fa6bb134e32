//go:build apiserver

package takenaddress_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/takenaddress"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestReservedIPFollowsNodes(t *testing.T) {
	c := kubetest.Client(t)
	index := poolindex.New()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return errors.Join(takenaddress.New(mgr.GetClient(), index, slog.New(slog.DiscardHandler)).Register(mgr), index.Watch(t.Context(), mgr.GetCache()))
	})
	reserved := func(want ...string) {
		t.Helper()
		kubetest.Eventually(t, func(ctx context.Context) error {
			object := &v2beta1.SpiderReservedIP{}
			if err := c.Get(ctx, client.ObjectKey{Name: "spiderpool-taken-ipv4"}, object); client.IgnoreNotFound(err) != nil {
				return err
			}
			if !slices.Equal(object.Spec.IPs, want) {
				return fmt.Errorf("reserved are %v, want %v", object.Spec.IPs, want)
			}
			return nil
		})
	}
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "with-nodes"}}
	pool.Spec.Subnet, pool.Spec.IPs = "10.71.0.0/24", []string{"10.71.0.1-10.71.0.9"}
	kubetest.Create(t, c, pool)
	for i, want := range [][]string{{"10.71.0.7"}, {"10.71.0.7-10.71.0.8"}} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("taken-%d", i)}}
		kubetest.Create(t, c, node)
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.71.0.%d", 7+i)}}
		if err := c.Status().Update(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		reserved(want...)
	}
	kubetest.Remove(t, c, pool)
	reserved()
}
