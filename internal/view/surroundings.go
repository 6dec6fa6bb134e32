package view

import (
	"encoding/json"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// ReportingPod is a pod with the addresses that it reports in its status and in the annotation of
// Multus. They are claims.
type ReportingPod struct {
	reclaim.Pod
	Node    string
	Reports []netip.Addr // none of a pod in the network of its node
	// TerminatingFor is the time since the pod's deletion by the clock of the API server; 0 if it
	// is not terminating.
	TerminatingFor time.Duration
}

// Surroundings are all pods and nodes of the cluster.
type Surroundings struct {
	Pods  map[lease.PodKey]ReportingPod
	Nodes map[string]reclaim.Node
}

// pod returns the facts about a pod.
func (s Surroundings) pod(key lease.PodKey) reclaim.Pod {
	if p, ok := s.Pods[key]; ok {
		return p.Pod
	}
	return reclaim.Pod{Presence: reclaim.Gone}
}

// node returns the facts about a node; an empty name is unknown.
func (s Surroundings) node(name string) reclaim.Node {
	if n, ok := s.Nodes[name]; ok || name == "" {
		return n
	}
	return reclaim.Node{Presence: reclaim.Gone}
}

// lost reports whether the end of the node is proven.
func (s Surroundings) lost(name string) bool {
	n := s.node(name)
	return n.Presence == reclaim.Gone || n.OutOfService
}

// ReportOf returns the facts about a pod, and the addresses that it reports.
func ReportOf(pod *corev1.Pod, now time.Time) ReportingPod {
	grace := time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second
	p := ReportingPod{
		Pod: reclaim.Pod{
			Presence: reclaim.Exists, UID: compile.PodUID(pod.UID, pod.Annotations), Phase: string(pod.Status.Phase),
			Terminating: pod.DeletionTimestamp != nil, Grace: grace, HasAddress: len(pod.Status.PodIPs) > 0,
		},
		Node: pod.Spec.NodeName,
	}
	if pod.DeletionTimestamp != nil { // the end of the grace period
		p.TerminatingFor = max(0, now.Sub(pod.DeletionTimestamp.Time)+grace)
	}
	if !pod.Spec.HostNetwork {
		p.Reports = reported(pod)
	}
	return p
}

// reported returns the addresses in the status of a pod and in the annotation of Multus, each once.
func reported(pod *corev1.Pod) (addrs []netip.Addr) {
	seen := map[netip.Addr]bool{}
	add := func(text string) {
		if addr, err := netip.ParseAddr(text); err == nil && !seen[addr] {
			seen[addr] = true
			addrs = append(addrs, addr)
		}
	}
	for _, ip := range pod.Status.PodIPs {
		add(ip.IP)
	}
	var networks []struct {
		IPs []string `json:"ips"`
	}
	// Multus writes the annotation; one that cannot be parsed reports nothing.
	_ = json.Unmarshal([]byte(pod.Annotations[names.AnnotationMultusNetworkStatus]), &networks)
	for _, network := range networks {
		for _, ip := range network.IPs {
			add(ip)
		}
	}
	return addrs
}

// NodeOf returns the facts about a node.
func NodeOf(node *corev1.Node) reclaim.Node {
	n := reclaim.Node{Presence: reclaim.Exists}
	for _, taint := range node.Spec.Taints {
		n.OutOfService = n.OutOfService || taint.Key == corev1.TaintNodeOutOfService
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			n.Ready = condition.Status == corev1.ConditionTrue
		}
	}
	return n
}
