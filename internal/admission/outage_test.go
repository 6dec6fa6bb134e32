//go:build apiserver

package admission_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Without webhooks, pods come and go, and the configuration cannot change.
func TestWebhookOutageBlocksNoPod(t *testing.T) {
	c := kubetest.Client(t)
	kubetest.Webhooks(t, c, "away", kubetest.FreePort(t))
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Create(ctx, newPool("unjudged", "10.7.0.0/24"), client.DryRunAll); err == nil {
			return errors.New("a pool got in unjudged")
		} else if !strings.Contains(err.Error(), "failed calling webhook") {
			return err
		}
		return nil
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "unaffected"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Errorf("create a pod: %v", err)
	}
	block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("10.7.0.0"), Node: "n1"})
	endpoint := &v2beta1.SpiderEndpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "unaffected"}}
	endpoint.Status.Current.IPs = []v2beta1.EndpointIP{}
	if err := errors.Join(
		c.Create(t.Context(), block), c.Create(t.Context(), endpoint),
		c.Delete(t.Context(), endpoint), c.Delete(t.Context(), block), c.Delete(t.Context(), pod),
	); err != nil {
		t.Errorf("writes of an agent: %v", err)
	}
}

// Without one of the webhooks of a kind, the API server rejects changes of the
// specification, but accepts changes of the status.
func TestWebhookOutageRejectsResources(t *testing.T) {
	c := kubetest.Client(t)
	kinds := map[string]client.Object{
		"spiderippool":       newPool("outage", "10.70.0.0/24"),
		"spidersubnet":       newSubnet("outage", "10.71.0.0/24"),
		"spiderreservedip":   &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "outage"}},
		"spidermultusconfig": &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "outage"}},
		"spidercoordinator":  &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "outage"}},
	}
	for _, o := range kinds {
		kubetest.Create(t, c, o)
	}
	operations := map[string]func(context.Context, client.Object) error{
		"create": func(ctx context.Context, o client.Object) error {
			o.SetResourceVersion("")
			o.SetUID("")
			o.SetName("another")
			return c.Create(ctx, o, client.DryRunAll)
		},
		"update": func(ctx context.Context, o client.Object) error {
			o.SetLabels(map[string]string{"changed": "true"})
			return c.Update(ctx, o, client.DryRunAll)
		},
		"delete": func(ctx context.Context, o client.Object) error { return c.Delete(ctx, o, client.DryRunAll) },
	}
	refuse := func(t *testing.T, hook string, kindsOfChange ...string) {
		t.Helper()
		for kind, o := range kinds {
			for _, operation := range kindsOfChange {
				want := fmt.Sprintf("failed calling webhook %q", kind+"."+hook+".spiderpool.spidernet.io")
				kubetest.Eventually(t, func(ctx context.Context) error {
					err := operations[operation](ctx, o.DeepCopyObject().(client.Object))
					if err == nil || !strings.Contains(err.Error(), want) {
						return fmt.Errorf("%s %s: got %v, want %s", operation, kind, err, want)
					}
					return nil
				})
			}
		}
	}
	t.Run("both webhooks away", func(t *testing.T) {
		kubetest.Webhooks(t, c, "outage", kubetest.FreePort(t))
		refuse(t, "mutate", "create", "update")
		refuse(t, "validate", "delete")
		for kind, o := range kinds {
			if err := c.Status().Update(t.Context(), o.DeepCopyObject().(client.Object), client.DryRunAll); err != nil {
				t.Errorf("status of %s: %v", kind, err)
			}
		}
		kubetest.Remove(t, c, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "outage"}})
		refuse(t, "validate", "create", "update", "delete")
	})
	for kind, o := range kinds {
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := operations["delete"](ctx, o); err != nil {
				return fmt.Errorf("%s cannot be deleted after the outage: %w", kind, err)
			}
			return nil
		})
	}
}
