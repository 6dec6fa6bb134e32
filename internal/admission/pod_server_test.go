//go:build apiserver

package admission_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/admission"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

// The chart's webhook of pods is for the namespace "ai" in the file that
// kubetest.PodWebhook reads.
func TestPodsStartWithoutWebhook(t *testing.T) {
	c := kubetest.Client(t)
	ai := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ai"}}
	if err := c.Create(t.Context(), ai); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	name, port := kubetest.Namespace(t, c), kubetest.FreePort(t)
	offer := &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ai", Name: "rdma", Annotations: map[string]string{names.AnnotationPodRDMAResourceInject: "gpu"}},
		Spec:       v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNISriov), Sriov: &v2beta1.SriovConfig{ResourceName: "x.io/vf"}},
	}
	kubetest.Create(t, c, offer)
	hooks := kubetest.PodWebhook(t, c, name, port)
	// created returns what becomes of a pod that asks for the attachments of that
	// name, or for none.
	created := func(ctx context.Context, namespace, wanted string) (*corev1.Pod, error) {
		pod := newPod("user", false, nil)
		pod.Namespace = namespace
		if wanted != "" {
			pod.Annotations = map[string]string{names.AnnotationPodRDMAResourceInject: wanted}
		}
		return pod, c.Create(ctx, pod, client.DryRunAll)
	}

	t.Run("served", func(t *testing.T) {
		manager(t, name, port, admission.RegisterPods)
		kubetest.Eventually(t, func(ctx context.Context) error {
			pod, err := created(ctx, "ai", "gpu")
			if err != nil {
				return err
			}
			devices := pod.Spec.Containers[0].Resources.Limits["x.io/vf"]
			if pod.Annotations[names.AnnotationMultusNetworks] != "ai/rdma" || devices.Value() != 1 {
				return fmt.Errorf("the pod has networks %q and %s devices", pod.Annotations[names.AnnotationMultusNetworks], devices.String())
			}
			return nil
		})
		_, err := created(t.Context(), "ai", "unknown")
		refused(t, err, `metadata.annotations[cni.spidernet.io/rdma-resource-inject]: "unknown": no SpiderMultusConfig has this annotation with this value`)
		for _, namespace := range []string{"default", "kube-system"} {
			if pod, err := created(t.Context(), namespace, "unknown"); err != nil || pod.Annotations[names.AnnotationMultusNetworks] != "" {
				t.Errorf("pod in the excluded namespace %s: %v, %v", namespace, err, pod.Annotations)
			}
		}
	})

	for what, wanted := range map[string]string{"asks for attachments": "gpu", "asks for none": ""} {
		if pod, err := created(t.Context(), "ai", wanted); err != nil || pod.Annotations[names.AnnotationMultusNetworks] != "" {
			t.Errorf("with the webhook away, a pod that %s: %v, %v", what, err, pod.Annotations)
		}
	}
	// A pod without a request passes even if an administrator changed the failure
	// policy to Fail.
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(hooks), hooks); err != nil {
		t.Fatal(err)
	}
	hooks.Webhooks[0].FailurePolicy = new(admissionv1.Fail)
	if err := c.Update(t.Context(), hooks); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if _, err := created(ctx, "ai", "gpu"); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			return errors.Join(errors.New("the API server does not ask the webhook"), err)
		}
		return nil
	})
	if _, err := created(t.Context(), "ai", ""); err != nil {
		t.Errorf("a pod without the annotations: %v", err)
	}
}
