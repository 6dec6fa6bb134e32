package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// injectAnnotations ask for attachments by a name of the user's choice, which
// SpiderMultusConfigs carry in an annotation of the same key.
var injectAnnotations = []string{v2beta1.AnnotationPodRDMAResourceInject, v2beta1.AnnotationPodNetworkResourceInject}

// RegisterPods registers the webhook of pods, at /mutate--v1-pod. It alone is in the
// way of pods, and only where the installation switches it on
// (spiderpoolController.podResourceInject); its failure policy is Ignore, and it
// is asked about annotated pods only.
func RegisterPods(mgr ctrl.Manager) error {
	err := ctrl.NewWebhookManagedBy(mgr, &corev1.Pod{}).WithDefaulter(&podDevices{reader: mgr.GetClient()}).Complete()
	if err != nil {
		return fmt.Errorf("register the webhook of pods: %w", err)
	}
	return nil
}

type podDevices struct {
	reader client.Reader
}

// Default gives an annotated pod the attachments that it asks for, and the
// devices that these need.
func (w *podDevices) Default(ctx context.Context, pod *corev1.Pod) error {
	if !slices.ContainsFunc(injectAnnotations, func(key string) bool { return pod.Annotations[key] != "" }) {
		return nil
	}
	var configs v2beta1.SpiderMultusConfigList
	if err := w.reader.List(ctx, &configs, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list SpiderMultusConfigs: %w", err)
	}
	return inject(pod, configs.Items)
}

// inject adds to the pod the attachments of the configs that carry its
// annotations, and to its first container a device of each one's resource.
func inject(pod *corev1.Pod, configs []v2beta1.SpiderMultusConfig) error {
	for _, key := range injectAnnotations {
		name := pod.Annotations[key]
		if name == "" {
			continue
		}
		var wanted []*v2beta1.SpiderMultusConfig
		for i := range configs {
			if configs[i].Annotations[key] == name {
				wanted = append(wanted, &configs[i])
			}
		}
		if len(wanted) == 0 {
			return fmt.Errorf("metadata.annotations[%s]: %q: no SpiderMultusConfig has this annotation with this value; annotate those whose interfaces the pod is to get", key, name)
		}
		slices.SortFunc(wanted, func(a, b *v2beta1.SpiderMultusConfig) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
		networks, err := addNetworks(pod.Annotations[v2beta1.AnnotationMultusNetworks], wanted)
		if err != nil {
			return err
		}
		pod.Annotations[v2beta1.AnnotationMultusNetworks] = networks
		addDevices(pod, wanted)
	}
	return nil
}

// addNetworks adds the attachments to a network selection annotation, in the form
// that it has: a JSON list, or a list separated by commas.
func addNetworks(annotation string, configs []*v2beta1.SpiderMultusConfig) (string, error) {
	annotation = strings.TrimSpace(annotation)
	if !strings.HasPrefix(annotation, "[") {
		var networks []string
		if annotation != "" {
			networks = append(networks, annotation)
		}
		for _, config := range configs {
			networks = append(networks, config.Namespace+"/"+compile.AttachmentName(config))
		}
		return strings.Join(networks, ","), nil
	}
	var networks []map[string]any
	if err := json.Unmarshal([]byte(annotation), &networks); err != nil {
		return "", fmt.Errorf("metadata.annotations[%s]: %q: is not a JSON list of objects: %w", v2beta1.AnnotationMultusNetworks, annotation, err)
	}
	for _, config := range configs {
		networks = append(networks, map[string]any{"namespace": config.Namespace, "name": compile.AttachmentName(config)})
	}
	text, err := json.Marshal(networks)
	return string(text), err
}

// addDevices adds to the first container one device of each attachment's
// resource. A resource that the pod asks for already is left as it is.
func addDevices(pod *corev1.Pod, configs []*v2beta1.SpiderMultusConfig) {
	devices := map[corev1.ResourceName]int64{}
	for _, config := range configs {
		if name := deviceOf(&config.Spec); name != "" && !asksFor(pod, name) {
			devices[name]++
		}
	}
	if len(devices) == 0 || len(pod.Spec.Containers) == 0 {
		return
	}
	resources := &pod.Spec.Containers[0].Resources
	for _, list := range []*corev1.ResourceList{&resources.Requests, &resources.Limits} {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		for name, n := range devices {
			(*list)[name] = *resource.NewQuantity(n, resource.DecimalSI)
		}
	}
}

func asksFor(pod *corev1.Pod, name corev1.ResourceName) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		_, limited := c.Resources.Limits[name]
		return limited
	})
}

// deviceOf returns the extended resource of an attachment's devices, if it has any.
func deviceOf(spec *v2beta1.SpiderMultusConfigSpec) corev1.ResourceName {
	var rdma *string
	switch {
	case spec.Sriov != nil:
		return corev1.ResourceName(spec.Sriov.ResourceName)
	case spec.IBSriov != nil:
		return corev1.ResourceName(spec.IBSriov.ResourceName)
	case spec.Macvlan != nil:
		rdma = spec.Macvlan.RDMAResourceName
	case spec.IPvlan != nil:
		rdma = spec.IPvlan.RDMAResourceName
	case spec.Vlan != nil:
		rdma = spec.Vlan.RDMAResourceName
	}
	if rdma == nil {
		return ""
	}
	return corev1.ResourceName(*rdma)
}
