package flow

import "slices"

// NamespaceLabel is the label that Cilium adds for the namespace of a pod.
const NamespaceLabel = "io.kubernetes.pod.namespace"

// HubbleLabels returns the labels of an end as Cilium writes them, sorted, e.g. "k8s:app=web" and
// "k8s:io.kubernetes.pod.namespace=shop", or "reserved:world" for an end that is no known pod.
func (e *End) HubbleLabels() []string {
	if !e.IsPod() {
		return []string{"reserved:world"}
	}
	all := []string{"k8s:" + NamespaceLabel + "=" + e.Pod.Namespace}
	for key, value := range e.Labels {
		all = append(all, "k8s:"+key+"="+value)
	}
	slices.Sort(all)
	return all
}

// Hubble returns the reason as Hubble's API and metrics name it.
func (r Reason) Hubble() string {
	switch r {
	case ByPolicy:
		return "POLICY_DENIED"
	case BySpoofing:
		return "INVALID_SOURCE_IP"
	}
	return "DROP_REASON_UNKNOWN"
}
