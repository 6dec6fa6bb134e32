package testbed

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/names"
)

const (
	// labelRole is first, last or host: the roles of the pods on a node.
	labelRole = "connectivity.spidernet.io/role"
	// labelNode is the number of the node in the test: names of nodes can be longer than labels.
	labelNode = "connectivity.spidernet.io/node"

	roleFirst = "first"
	roleLast  = "last"
	roleHost  = "host"

	container = "probe"
	prefix    = "spiderpool-connectivity-"
)

// Spec describes the pods of a test.
type Spec struct {
	Nodes []string
	// Networks are the NetworkAttachmentDefinitions of each pod, as "namespace/name"; the first
	// one is for its default interface.
	Networks []string
	Image    string
	// Command is the program of the pods; Create appends "--name" with the name of the pod, and
	// "--port".
	Command []string
	Port    uint16
}

// Port returns the port of a pod of a test.
func Port(p *corev1.Pod) uint16 {
	command := p.Spec.Containers[0].Command
	port, _ := strconv.ParseUint(command[len(command)-1], 10, 16)
	return uint16(port)
}

func labels(role string, node int) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "spiderpool-connectivity", labelRole: role, labelNode: strconv.Itoa(node)}
}

// namespace permits pods in the network of their node, so the level of PodSecurity is privileged.
// All other settings of all pods are those of the level restricted.
func namespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: prefix,
		Labels:       map[string]string{"app.kubernetes.io/name": "spiderpool-connectivity", "pod-security.kubernetes.io/enforce": "privileged"},
	}}
}

// pods returns the three pods of each node.
func pods(spec Spec) (all []*corev1.Pod) {
	for i, node := range spec.Nodes {
		for _, role := range []string{roleFirst, roleLast, roleHost} {
			all = append(all, pod(spec, i, node, role))
		}
	}
	return all
}

func pod(spec Spec, number int, node, role string) *corev1.Pod {
	name := fmt.Sprintf("%s-%d", role, number)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels(role, number)},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			RestartPolicy:                 corev1.RestartPolicyAlways,
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Affinity:                      onNode(node),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(int64(65532)), RunAsGroup: ptr.To(int64(65532)),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: container, Image: spec.Image, Command: append(append([]string{}, spec.Command...), "--name", name, "--port", strconv.Itoa(int(spec.Port))),
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
				},
			}},
		},
	}
	if role == roleHost {
		p.Spec.HostNetwork = true
		return p
	}
	p.Annotations = map[string]string{}
	if len(spec.Networks) > 0 {
		p.Annotations[names.AnnotationMultusDefaultNetwork] = spec.Networks[0]
	}
	if len(spec.Networks) > 1 {
		p.Annotations[names.AnnotationMultusNetworks] = strings.Join(spec.Networks[1:], ",")
	}
	return p
}

// onNode selects a node by its name, like the pods of a DaemonSet.
func onNode(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}}}
}

// services returns one Service for the last pod of each node.
func services(spec Spec) (all []*corev1.Service) {
	for i := range spec.Nodes {
		ports := []corev1.ServicePort{}
		for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
			ports = append(ports, corev1.ServicePort{Name: strings.ToLower(string(protocol)), Protocol: protocol, Port: int32(spec.Port), TargetPort: intstr.FromInt32(int32(spec.Port))})
		}
		all = append(all, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("last-%d", i), Labels: labels(roleLast, i)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, Selector: labels(roleLast, i), Ports: ports, IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			},
		})
	}
	return all
}
