package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// injectAnnotations request attachments by a value that the user chooses, e.g. "gpu".
// A pod gets the attachments of all SpiderMultusConfigs with the same annotation.
var injectAnnotations = []string{names.AnnotationPodRDMAResourceInject, names.AnnotationPodNetworkResourceInject}

// RegisterPods adds the webhook for pods, at /mutate--v1-pod. Helm value
// spiderpoolController.podResourceInject enables it. Its failure policy is Ignore, and
// the API server calls it for annotated pods only, so no pod
// waits for an unavailable webhook.
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

// Default adds the requested attachments and their devices to an annotated pod.
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

// inject adds the attachments of the matching configs to the pod, and a device of
// each attachment's resource to its first container.
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
			return fmt.Errorf("metadata.annotations[%s]: %q: no SpiderMultusConfig has this annotation with this value; add it to the SpiderMultusConfigs of the interfaces for this pod", key, name)
		}
		slices.SortFunc(wanted, func(a, b *v2beta1.SpiderMultusConfig) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
		networks, err := addNetworks(pod, wanted)
		if err != nil {
			return err
		}
		pod.Annotations[names.AnnotationMultusNetworks] = networks
		addDevices(pod, wanted)
	}
	return nil
}

// addNetworks returns the pod's network selection annotation of Multus with the
// attachments that the pod does not have yet. It keeps the form of the annotation: a
// JSON list, or a list separated by commas.
func addNetworks(pod *corev1.Pod, configs []*v2beta1.SpiderMultusConfig) (string, error) {
	annotation := strings.TrimSpace(pod.Annotations[names.AnnotationMultusNetworks])
	present, err := pool.Attachments(pod.Namespace, annotation)
	if err != nil {
		return "", err
	}
	// Without a namespace, the default network is one of Multus's own namespace, and
	// no attachment of a SpiderMultusConfig is meant.
	first, err := pool.Attachments("", pod.Annotations[names.AnnotationMultusDefaultNetwork])
	if err != nil {
		return "", err
	}
	present = append(present, first...)
	var added []map[string]any
	var networks []string
	for _, config := range configs {
		wanted := pool.NetworkAttachment{Namespace: config.Namespace, Name: compile.AttachmentName(config)}
		if !slices.Contains(present, wanted) {
			present = append(present, wanted)
			added = append(added, map[string]any{"namespace": wanted.Namespace, "name": wanted.Name})
			networks = append(networks, wanted.String())
		}
	}
	switch {
	case len(added) == 0:
		return annotation, nil
	case annotation == "":
		return strings.Join(networks, ","), nil
	case !strings.HasPrefix(annotation, "["):
		return annotation + "," + strings.Join(networks, ","), nil
	}
	var all []map[string]any
	if err := json.Unmarshal([]byte(annotation), &all); err != nil {
		return "", fmt.Errorf("metadata.annotations[%s]: %q: not a JSON list of objects: %w", names.AnnotationMultusNetworks, annotation, err)
	}
	text, err := json.Marshal(append(all, added...))
	return string(text), err
}

// addDevices adds one device for each attachment to the first container, e.g. two of
// nvidia.com/vf for two attachments with that resource. It does not change the
// quantity of a resource that the pod already requests.
func addDevices(pod *corev1.Pod, configs []*v2beta1.SpiderMultusConfig) {
	devices := map[corev1.ResourceName]int64{}
	for _, config := range configs {
		if name := deviceOf(&config.Spec); name != "" && !requests(pod, name) {
			devices[name]++
		}
	}
	addResources(pod, devices)
}

func requests(pod *corev1.Pod, name corev1.ResourceName) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		_, limited := c.Resources.Limits[name]
		return limited
	})
}

// deviceOf returns the extended resource of an attachment's devices, or "".
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
