package pool

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// FirstInterface is the name of a pod's first interface.
const FirstInterface = "eth0"

// maxInterfaces bounds the interfaces of a pod, and with them the addresses that one
// pod takes.
const maxInterfaces = 64

const exampleNetworks = `"net-a,ns/net-b@net2" or [{"name":"net-a","namespace":"ns","interface":"net2"}]`

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

// PodInterface is an interface of a pod, made by Multus.
type PodInterface struct {
	Name       string // eth0, net1, …
	Position   int    // 0 for the pod's first interface
	Attachment NetworkAttachment
}

// ClusterNetwork is the network of a pod without Multus annotations.
type ClusterNetwork struct {
	// Default is the attachment of the first interface; the zero value means a network
	// without a NetworkAttachmentDefinition.
	Default NetworkAttachment
	// Namespace is the namespace for a default-network annotation without one
	// (multusNamespace of Multus); empty means kube-system.
	Namespace string
	// Additional are the attachments that Multus gives every pod after the first
	// interface (its defaultNetworks), except pods of SystemNamespaces.
	Additional       []NetworkAttachment
	SystemNamespaces []string
}

// Interfaces returns the interfaces of a pod, given its namespace and its annotations
// v1.multus-cni.io/default-network and k8s.v1.cni.cncf.io/networks. The names are
// those of Multus: eth0 for the first interface, and net<n> for the n-th of the
// others, unless its entry has a name of its own. The error is an *AnnotationError.
func Interfaces(namespace string, annotations map[string]string, cluster ClusterNetwork) ([]PodInterface, error) {
	first := PodInterface{Name: FirstInterface, Attachment: cluster.Default}
	if value := strings.TrimSpace(annotations[names.AnnotationMultusDefaultNetwork]); value != "" {
		in := cluster.Namespace
		if in == "" {
			in = "kube-system"
		}
		elements, reason := parseNetworks(value)
		if reason == "" && len(elements) != 1 {
			reason = fmt.Sprintf("names %d attachments; name one", len(elements))
		}
		if reason != "" {
			return nil, &AnnotationError{names.AnnotationMultusDefaultNetwork, value, reason, `"ns/net-a"`}
		}
		first.Attachment = elements[0].attachment(in)
	}
	interfaces := []PodInterface{first}
	if !slices.Contains(cluster.SystemNamespaces, namespace) {
		for i, attachment := range cluster.Additional {
			interfaces = append(interfaces, PodInterface{Name: fmt.Sprintf("net%d", i+1), Position: i + 1, Attachment: attachment})
		}
	}
	value := strings.TrimSpace(annotations[names.AnnotationMultusNetworks])
	if value == "" {
		return interfaces, nil
	}
	taken := map[string]bool{}
	for _, i := range interfaces {
		taken[i.Name] = true
	}
	elements, reason := parseNetworks(value)
	if reason == "" && len(interfaces)+len(elements) > maxInterfaces {
		reason = fmt.Sprintf("asks for %d interfaces besides %s; ask for at most %d", len(elements), first.Name, maxInterfaces-len(interfaces))
	}
	for _, e := range elements {
		if reason != "" {
			break
		}
		p := PodInterface{Name: e.Interface, Position: len(interfaces), Attachment: e.attachment(namespace)}
		if p.Name == "" {
			p.Name = fmt.Sprintf("net%d", p.Position)
		}
		if fault := netplan.InterfaceNameFault(p.Name); fault != "" {
			reason = fmt.Sprintf("interface name %q %s", shorten(p.Name), fault)
		} else if taken[p.Name] {
			reason = fmt.Sprintf("two interfaces are named %s", p.Name)
		}
		taken[p.Name] = true
		interfaces = append(interfaces, p)
	}
	if reason != "" {
		return nil, &AnnotationError{names.AnnotationMultusNetworks, value, reason, exampleNetworks}
	}
	return interfaces, nil
}

// Attachments returns the attachments in a network selection annotation, in order.
// namespace is for entries without one. The error is an *AnnotationError.
func Attachments(namespace, value string) ([]NetworkAttachment, error) {
	var attachments []NetworkAttachment
	if value = strings.TrimSpace(value); value == "" {
		return nil, nil
	}
	elements, reason := parseNetworks(value)
	if reason != "" {
		return nil, &AnnotationError{names.AnnotationMultusNetworks, value, reason, exampleNetworks}
	}
	for _, e := range elements {
		attachments = append(attachments, e.attachment(namespace))
	}
	return attachments, nil
}

// networkElement is an entry of a network selection annotation. We ignore its other
// keys.
type networkElement struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Interface string `json:"interface"`
	// InterfaceRequest is the key of Interface before Multus 3.2, which Multus still
	// reads if the newer one is missing.
	InterfaceRequest string `json:"interfaceRequest"`
}

func (e networkElement) attachment(defaultNamespace string) NetworkAttachment {
	if e.Namespace == "" {
		e.Namespace = defaultNamespace
	}
	return NetworkAttachment{Namespace: e.Namespace, Name: e.Name}
}

// parseNetworks reads a network selection annotation in either form: a JSON list, or
// a comma-separated list of [namespace/]name[@interface].
func parseNetworks(value string) (elements []networkElement, reason string) {
	if strings.HasPrefix(value, "[") {
		if err := json.Unmarshal([]byte(value), &elements); err != nil {
			return nil, "is not a JSON list of objects: " + err.Error()
		}
	} else {
		for item := range strings.SplitSeq(value, ",") {
			e, reason := parseNetwork(strings.TrimSpace(item))
			if reason != "" {
				return nil, reason
			}
			elements = append(elements, e)
		}
	}
	for i, e := range elements {
		if e.Name == "" {
			return nil, fmt.Sprintf("entry %d has no name", i)
		}
		elements[i].Interface = cmp.Or(e.Interface, e.InterfaceRequest)
	}
	return elements, ""
}

// parseNetwork reads [namespace/]name[@interface]. Like Multus, it takes spaces around
// each part, and an empty interface for none.
func parseNetwork(item string) (e networkElement, reason string) {
	rest, ifname, hasInterface := strings.Cut(item, "@")
	ns, name, hasNamespace := strings.Cut(rest, "/")
	if !hasNamespace {
		ns, name = "", rest
	}
	e = networkElement{Name: strings.TrimSpace(name), Namespace: strings.TrimSpace(ns), Interface: strings.TrimSpace(ifname)}
	if hasInterface && strings.ContainsAny(e.Interface, "@/ ") {
		return e, fmt.Sprintf("%q has no interface name after '@'", item)
	}
	if e.Name == "" || strings.ContainsAny(e.Name, "/ ") || strings.Contains(e.Namespace, " ") {
		return e, fmt.Sprintf("%q is not of the form [namespace/]name[@interface]", item)
	}
	return e, ""
}
