//go:build apiserver

package peergroup_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/peergroup"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// With policy.enabled=false, groups would grow old, and agents would trust them later.
func TestDisabledControllerDeletesGroups(t *testing.T) {
	c := kubetest.Client(t)
	for i := range 3 {
		kubetest.Create(t, c, &v2beta1.SpiderPeerGroup{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("outdated-%d", i)}})
	}
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return peergroup.NewRemover(mgr.GetClient(), mgr.GetAPIReader(), slog.New(slog.NewTextHandler(t.Output(), nil))).Register(mgr)
	})
	kubetest.Eventually(t, func(ctx context.Context) error {
		var left v2beta1.SpiderPeerGroupList
		if err := c.List(ctx, &left); err != nil || len(left.Items) > 0 {
			return fmt.Errorf("%d groups are left (%v)", len(left.Items), err)
		}
		return nil
	})
}
