package view

import (
	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// PodSources are the objects behind a question about a pod.
type PodSources struct {
	Pod       *corev1.Pod
	Namespace pool.NamespaceFacts
	Top       ipam.Controller
	Node      *corev1.Node // nil for a pod without a node
	Config    *config.File
	// SystemNamespace is the namespace of Spiderpool.
	SystemNamespace string
	Network         func(pool.NetworkAttachment) (ipam.Network, error)
	// Agent is PodQuestion.Agent.
	Agent func() (*corev1.Pod, error)
}

// Question returns the question whose answer is that of the pod's agent.
func (s PodSources) Question() PodQuestion {
	facts, node := agentclient.PodFacts(s.Pod), pool.NodeFacts{}
	if s.Node != nil {
		node = pool.NodeFacts{Name: s.Node.Name, Labels: s.Node.Labels}
	}
	return PodQuestion{
		Name: facts.PodKey, UID: compile.PodUID(s.Pod.UID, s.Pod.Annotations), Phase: string(s.Pod.Status.Phase), HostNetwork: s.Pod.Spec.HostNetwork,
		Facts: pool.Request{
			Pod:       pool.PodFacts{Namespace: s.Pod.Namespace, Name: s.Pod.Name, Labels: s.Pod.Labels, Annotations: facts.Annotations, App: ipam.AppOf(s.Pod.Namespace, s.Top)},
			Namespace: s.Namespace, Node: node,
		},
		Cluster:  s.Config.Multus.ClusterNetwork(s.SystemNamespace),
		Network:  s.Network,
		Families: s.Config.IPAM.Families(),
		Agent:    s.Agent,
	}
}
