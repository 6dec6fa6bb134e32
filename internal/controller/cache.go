package controller

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
)

// cacheOptions limits the caches: a few fields of pods, nodes and StatefulSets, and
// only our own Secret and webhook configurations. This bounds both memory and the
// rights that the controller needs. A large cluster has 100,000 pods with endpoints and
// leases, so objects share their equal parts.
func cacheOptions(cfg config.Controller) cache.Options {
	byName := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	var pods podStripper
	var endpoints endpointSharer
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:             {Transform: pods.strip},
			&corev1.Node{}:            {Transform: stripNode},
			&appsv1.StatefulSet{}:     {Transform: stripStatefulSet},
			&v2beta1.SpiderEndpoint{}: {Transform: endpoints.share},
			&v2beta1.SpiderIPBlock{}:  {Transform: shareBlock},
			&corev1.Secret{}: {Namespaces: map[string]cache.Config{
				cfg.PodNamespace: {FieldSelector: byName(cfg.Webhook.TLS.SecretName)},
			}},
			&admissionv1.MutatingWebhookConfiguration{}:   {Field: byName(cfg.Webhook.MutatingName)},
			&admissionv1.ValidatingWebhookConfiguration{}: {Field: byName(cfg.Webhook.ValidatingName)},
		},
	}
}
