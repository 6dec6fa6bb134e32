//go:build apiserver

package poolstatus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// Another release has no other record of its addresses than the status.
func TestAllocationsOfAnotherReleaseStay(t *testing.T) {
	admin := kubetest.Client(t)
	p := newPool("theirs", "10.9.0.0/24", "10.9.0.1-10.9.0.20")
	kubetest.Create(t, admin, p)
	const allocated = `{"10.9.0.1":{"pod":"default/old","podUid":"1"}}`
	patch := client.MergeFrom(p.DeepCopy())
	p.Status.AllocatedIPs, p.Status.AllocatedIPCount, p.Status.TotalIPCount = new(allocated), new(int64(1)), new(int64(20))
	if err := admin.Status().Patch(t.Context(), p, patch); err != nil {
		t.Fatal(err)
	}
	c := start(t)
	refused := func() error {
		if got := ptr.Deref(p.Status.AllocatedIPs, ""); got != allocated || ptr.Deref(p.Status.AllocatedIPCount, 0) != 1 {
			return fmt.Errorf("status.allocatedIPs is %q", got)
		}
		return condition(p, metav1.ConditionFalse, compile.ReasonForeign, "1 addresses, e.g. 10.9.0.1 of pod default/old of another Spiderpool release")
	}
	eventually(t, c, p, refused)
	kubetest.Event(t, c, p, compile.ReasonForeign, "kubectl patch spiderippool theirs --subresource=status")

	// The deletion of the pool would delete the record.
	if err := c.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, p, refused)

	patch = client.MergeFrom(p.DeepCopy())
	p.Status.AllocatedIPs, p.Status.AllocatedIPCount = nil, nil
	if err := c.Status().Patch(t.Context(), p, patch); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(p), p); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the pool is still there"), err)
		}
		return nil
	})
}
