package controller

import (
	"slices"
	"strings"
	"unique"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// cacheOptions limits the caches: a few fields of pods, nodes and StatefulSets, and
// only our own Secret and webhook configurations. This bounds both memory and the
// rights that the controller needs.
func cacheOptions(cfg config.Controller) cache.Options {
	byName := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:         {Transform: stripPod},
			&corev1.Node{}:        {Transform: stripNode},
			&appsv1.StatefulSet{}: {Transform: stripStatefulSet},
			&corev1.Secret{}: {Namespaces: map[string]cache.Config{
				cfg.PodNamespace: {FieldSelector: byName(cfg.Webhook.TLS.SecretName)},
			}},
			&admissionv1.MutatingWebhookConfiguration{}:   {Field: byName(cfg.Webhook.MutatingName)},
			&admissionv1.ValidatingWebhookConfiguration{}: {Field: byName(cfg.Webhook.ValidatingName)},
		},
	}
}

// stripPod keeps the labels, the node, the phase, the networks, the addresses, the named ports and the requests of
// addresses of a pod.
func stripPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	return &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp, DeletionGracePeriodSeconds: pod.DeletionGracePeriodSeconds,
			Labels:      shared(pod.Labels),
			Annotations: networkAnnotations(pod.Annotations), OwnerReferences: pod.OwnerReferences,
		},
		Spec: corev1.PodSpec{
			NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork, RestartPolicy: pod.Spec.RestartPolicy, Containers: containers(&pod.Spec),
		},
		Status: corev1.PodStatus{
			Conditions: readiness(pod), Phase: pod.Status.Phase, Reason: pod.Status.Reason, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs,
		},
	}, nil
}

// readiness returns the condition Ready of a pod in the network of its node, e.g. an agent.
func readiness(pod *corev1.Pod) []corev1.PodCondition {
	if !pod.Spec.HostNetwork {
		return nil
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return nil
}

// shared returns the labels with one copy of each text for all pods: most pods have the labels of others.
func shared(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for key, value := range labels {
		out[unique.Make(key).Value()] = unique.Make(value).Value()
	}
	return out
}

// containers returns one container with the named ports of all that run together, and the requests of addresses; none if
// there is neither.
func containers(spec *corev1.PodSpec) []corev1.Container {
	var ports []corev1.ContainerPort
	for _, c := range compile.RunningContainers(spec) {
		for _, p := range c.Ports {
			if p.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: unique.Make(p.Name).Value(), ContainerPort: p.ContainerPort, Protocol: p.Protocol})
			}
		}
	}
	requests := compile.AddressRequests(spec)
	if ports == nil && requests == nil {
		return nil
	}
	return []corev1.Container{{Ports: ports, Resources: corev1.ResourceRequirements{Requests: requests}}}
}

// annotationDomains are the domains of annotations about a pod's networks.
var annotationDomains = []string{"cni.cncf.io", "multus-cni.io", "spidernet.io"}

func networkAnnotations(all map[string]string) map[string]string {
	kept := map[string]string{}
	for key, value := range all {
		domain, _, _ := strings.Cut(key, "/")
		if key == corev1.MirrorPodAnnotationKey || slices.ContainsFunc(annotationDomains, func(d string) bool { return strings.HasSuffix(domain, d) }) {
			kept[key] = value
		}
	}
	return kept
}

// stripNode keeps the labels, the taints, the provider ID, the condition Ready, the addresses, the networks, the limit of pods and the
// offered addresses of a node.
func stripNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	return &corev1.Node{
		TypeMeta: node.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, DeletionTimestamp: node.DeletionTimestamp,
			Labels: shared(node.Labels),
		},
		Spec: corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs, Taints: node.Spec.Taints, ProviderID: node.Spec.ProviderID},
		Status: corev1.NodeStatus{
			Conditions: readyCondition(node.Status.Conditions), Addresses: node.Status.Addresses,
			Capacity: compile.AddressResources(node.Status.Capacity), Allocatable: podsAndAddresses(node.Status.Allocatable),
		},
	}, nil
}

// podsAndAddresses returns the limit of pods and the offered addresses of a node.
func podsAndAddresses(all corev1.ResourceList) corev1.ResourceList {
	kept := compile.AddressResources(all)
	if pods, ok := all[corev1.ResourcePods]; ok {
		if kept == nil {
			kept = corev1.ResourceList{}
		}
		kept[corev1.ResourcePods] = pods
	}
	return kept
}

// stripStatefulSet keeps the replicas and the ordinals of a StatefulSet.
func stripStatefulSet(o any) (any, error) {
	set, ok := o.(*appsv1.StatefulSet)
	if !ok {
		return o, nil
	}
	return &appsv1.StatefulSet{
		TypeMeta: set.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: set.Name, UID: set.UID, ResourceVersion: set.ResourceVersion, DeletionTimestamp: set.DeletionTimestamp,
		},
		Spec: appsv1.StatefulSetSpec{Replicas: set.Spec.Replicas, Ordinals: set.Spec.Ordinals},
	}, nil
}

func readyCondition(all []corev1.NodeCondition) []corev1.NodeCondition {
	for _, c := range all {
		if c.Type == corev1.NodeReady {
			// Without the heartbeat, most updates of a node change nothing.
			return []corev1.NodeCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	return nil
}
