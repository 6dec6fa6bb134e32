package pool

// NetworkAttachment names a NetworkAttachmentDefinition.
type NetworkAttachment struct {
	Namespace string
	Name      string
}

// String returns "namespace/name", and "" for the zero value.
func (a NetworkAttachment) String() string {
	if a == (NetworkAttachment{}) {
		return ""
	}
	return a.Namespace + "/" + a.Name
}

// PodInterface is an interface that Multus makes for a pod.
type PodInterface struct {
	Name       string // eth0, net1, …
	Position   int    // 0 for the pod's first interface
	Attachment NetworkAttachment
}

// ClusterNetwork is what Multus gives a pod that does not say otherwise.
type ClusterNetwork struct {
	// Default is the attachment of the first interface; the zero value where it is
	// no NetworkAttachmentDefinition.
	Default NetworkAttachment
	// Namespace is where a default-network annotation without a namespace is
	// looked up (multusNamespace of Multus, kube-system).
	Namespace string
}

// Interfaces returns the interfaces of a pod in the namespace with the
// annotations, from v1.multus-cni.io/default-network and
// k8s.v1.cni.cncf.io/networks, as Multus numbers them: the first is eth0, and the
// nth of the networks is net<n> unless it asks for a name. The error is an
// *AnnotationError.
func Interfaces(namespace string, annotations map[string]string, cluster ClusterNetwork) ([]PodInterface, error) {
	return nil, nil
}
