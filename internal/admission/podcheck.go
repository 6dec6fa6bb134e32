package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// registerPodChecks adds the webhook that checks the annotations of pods for their
// bandwidth, at /validate--v1-pod. Its failure policy is Ignore, and the API server calls
// it for annotated pods only: the ADD of a pod checks the annotations again.
func registerPodChecks(mgr ctrl.Manager, cluster pool.ClusterNetwork) error {
	err := ctrl.NewWebhookManagedBy(mgr, &corev1.Pod{}).WithValidator(&podChecks{cluster: cluster}).Complete()
	if err != nil {
		return fmt.Errorf("register the checks of pods: %w", err)
	}
	return nil
}

type podChecks struct {
	deletable[*corev1.Pod]
	cluster pool.ClusterNetwork
}

// ValidateCreate refuses a pod with an invalid bandwidth.
func (c *podChecks) ValidateCreate(_ context.Context, pod *corev1.Pod) (admission.Warnings, error) {
	return nil, c.check(pod)
}

// ValidateUpdate refuses an invalid change of the bandwidth. Other updates of an invalid
// pod pass, e.g. the removal of a finalizer.
func (c *podChecks) ValidateUpdate(_ context.Context, before, pod *corev1.Pod) (admission.Warnings, error) {
	for _, key := range compile.BandwidthAnnotations {
		old, had := before.Annotations[key]
		if value, has := pod.Annotations[key]; has && (!had || value != old) {
			return nil, c.check(pod)
		}
	}
	return nil, nil
}

func (c *podChecks) check(pod *corev1.Pod) error {
	// Multus reports annotations for its networks that are invalid.
	interfaces, _ := pool.Interfaces(pod.Namespace, pod.Annotations, c.cluster)
	var known []string
	for _, i := range interfaces {
		known = append(known, i.Name)
	}
	_, err := compile.Bandwidth(pod.Annotations, known)
	return err
}
