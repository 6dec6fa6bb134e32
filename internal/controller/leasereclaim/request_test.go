//go:build apiserver

package leasereclaim_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// ask writes a request into a block, as spiderpoolctl release does, and waits until it is answered.
func ask(t *testing.T, c client.Client, b *v2beta1.SpiderIPBlock, value string) {
	t.Helper()
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, names.AnnotationReleaseAddress, value))
	if err := c.Patch(t.Context(), b, patch); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(b), b); err != nil {
			return err
		}
		if _, waits := b.Annotations[names.AnnotationReleaseAddress]; waits {
			return errors.New("the request has no answer")
		}
		return nil
	})
}

// TestUserReleasesRetainedAddress asks for the release of addresses. Another test (charts) shows that the policy of blocks
// lets an administrator annotate them.
func TestUserReleasesRetainedAddress(t *testing.T) {
	c, observed := start(t)
	labels := map[string]string{"a": "asked"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "asked"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec},
	}}
	retained := func(addr, pod string) lease.Lease {
		l := inUse(addr, "default/"+pod, "u", "living")
		l.State, l.FixedFor = lease.Retained, lease.ParseOwner("Pod/default/"+pod)
		return l
	}
	b := block("10.13.0.0", retained("10.13.0.1", "asked-0"), retained("10.13.0.2", "asked-1"), inUse("10.13.0.3", "default/asked-9", "u9", "living"))
	other := block("10.13.0.16", inUse("10.13.0.17", "default/asked-8", "u8", "living"))
	kubetest.Create(t, c, node("living"), set, b, other)

	ask(t, c, b, "10.13.0.1")
	kubetest.Event(t, c, b, "ReleaseRefused", "10.13.0.1 is not released: reserved for Pod/default/asked-0")
	ask(t, c, b, "10.13.0.3 force")
	kubetest.Event(t, c, b, "ReleaseRefused", "10.13.0.3 is not released: pod default/asked-9 may use it, and only the agent of node living can prove the end of sandbox c-10.13.0.3")
	ask(t, c, b, "10.13.0.9 force")
	kubetest.Event(t, c, b, "ReleaseRefused", "10.13.0.9 has no lease in this block")
	ask(t, c, other, "all of them") // events of one object and reason are one event
	kubetest.Event(t, c, other, "ReleaseRefused", `"all of them" is no address`)
	if got, err := states(t.Context(), c, b); err != nil || got != "10.13.0.1 Retained, 10.13.0.2 Retained, 10.13.0.3 InUse" {
		t.Fatalf("block has %q after refusals, error %v", got, err)
	}
	ask(t, c, b, "10.13.0.1 force")
	if got, err := states(t.Context(), c, b); err != nil || got != "10.13.0.1 Released, 10.13.0.2 Retained, 10.13.0.3 InUse" {
		t.Fatalf("block has %q, error %v", got, err)
	}
	observed.want(t, map[string]int{string(reclaim.UserRequest): 1})
	kubetest.Eventually(t, func(ctx context.Context) error {
		return eventSeen(ctx, c, "asked-0", "reclaimed 10.13.0.1 of pool p (UserRequest): a user asked for the release of the address of Pod/default/asked-0")
	})
}
