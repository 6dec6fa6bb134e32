package controller

import (
	"maps"
	"slices"
	"strings"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// podStripper makes the pods of the cache. The zero value is ready.
type podStripper struct{ owners recent[podParts] }

// podParts are the parts of a pod that are the same for most pods of an owner, e.g. of a ReplicaSet.
type podParts struct {
	labels, annotations map[string]string
	owners              []metav1.OwnerReference
	containers          []corev1.Container
}

// strip keeps the labels, the node, the phase, the networks, the addresses, the named ports and the requests of
// addresses of a pod.
func (s *podStripper) strip(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok || stripped(pod) {
		return o, nil
	}
	parts := s.parts(pod)
	return &corev1.Pod{
		TypeMeta: pod.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: shared(pod.Namespace), Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp, DeletionGracePeriodSeconds: pod.DeletionGracePeriodSeconds,
			Labels: parts.labels, Annotations: parts.annotations, OwnerReferences: parts.owners,
		},
		Spec: corev1.PodSpec{
			NodeName: shared(pod.Spec.NodeName), HostNetwork: pod.Spec.HostNetwork, RestartPolicy: shared(pod.Spec.RestartPolicy), Containers: parts.containers,
		},
		Status: corev1.PodStatus{
			Conditions: readiness(pod), Phase: shared(pod.Status.Phase), Reason: shared(pod.Status.Reason), PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs,
		},
	}, nil
}

// stripped reports whether strip has made the pod: a reflector calls it twice for the pods of the first list. Every container
// of an API server has a name.
func stripped(pod *corev1.Pod) bool {
	return len(pod.Spec.Containers) == 0 || pod.Spec.Containers[0].Name == ""
}

// parts returns the parts of a pod that it may share with another one of the same owner.
func (s *podStripper) parts(pod *corev1.Pod) podParts {
	is := podParts{
		labels: pod.Labels, annotations: networkAnnotations(pod.Annotations), owners: pod.OwnerReferences, containers: containers(&pod.Spec),
	}
	owner := ""
	if len(is.owners) > 0 {
		owner = string(is.owners[0].UID)
	}
	return s.owners.replace(owner, func(was podParts) podParts {
		return podParts{
			labels: sameMap(is.labels, was.labels), annotations: sameMap(is.annotations, was.annotations),
			owners: sameSlice(is.owners, was.owners), containers: sameSlice(is.containers, was.containers),
		}
	})
}

// sameMap returns the map of an earlier object if it is equal, and otherwise the new one, with the texts that others have, too.
func sameMap(is, was map[string]string) map[string]string {
	if len(is) == 0 {
		return nil
	}
	if maps.Equal(is, was) {
		return was
	}
	out := make(map[string]string, len(is))
	for key, value := range is {
		out[shared(key)] = shared(value)
	}
	return out
}

func sameSlice[T any](is, was []T) []T {
	if len(is) == len(was) && equality.Semantic.DeepEqual(is, was) {
		return was
	}
	return is
}

// shared returns a text that all objects with it share.
func shared[T ~string](text T) T { return unique.Make(text).Value() }

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

// containers returns one container with the named ports of all that run together, and the requests of addresses; none if
// there is neither.
func containers(spec *corev1.PodSpec) []corev1.Container {
	var ports []corev1.ContainerPort
	for _, c := range compile.RunningContainers(spec) {
		for _, p := range c.Ports {
			if p.Name != "" {
				ports = append(ports, corev1.ContainerPort{Name: shared(p.Name), ContainerPort: p.ContainerPort, Protocol: shared(p.Protocol)})
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

// networkAnnotations returns the annotations about networks, except the long one in which Multus reports what it did.
func networkAnnotations(all map[string]string) map[string]string {
	var kept map[string]string
	for key, value := range all {
		domain, _, _ := strings.Cut(key, "/")
		ours := slices.ContainsFunc(annotationDomains, func(d string) bool { return strings.HasSuffix(domain, d) })
		if key != corev1.MirrorPodAnnotationKey && !ours || key == names.AnnotationMultusNetworkStatus {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[key] = value
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
			Labels: sameMap(node.Labels, nil),
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
