// Package observe is the catalogue of events, and of the metrics that agent and
// controller share.
//
// A constructor returns an event as a value. Two recorders write it: that of the
// agent (kube/agentclient) and that of the controller (kube/status). The package
// imports neither client-go nor controller-runtime, because the agent links it.
package observe

import (
	"fmt"
	"strings"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Types of events, as core/v1 and events.k8s.io/v1 name them.
const (
	normal  = "Normal"
	warning = "Warning"
)

// Kind is a kind of event.
type Kind struct {
	About  string // the kind of the object with the event, e.g. "Pod"
	Type   string // "Normal" or "Warning"
	Reason string // CamelCase; the word that users filter by
	Action string // what Spiderpool did, for events.k8s.io/v1
	help   string // a sentence for the reference
}

// Event is something that happened to an object.
type Event struct {
	Kind
	Text string // at most 1024 bytes
}

var (
	failedAllocateIP = Kind{"Pod", warning, "FailedAllocateIP", "Allocate",
		"An interface of the pod gets no address. The text names every pool and the reason why it was not used."}
	ipConflict = Kind{"Pod", warning, "IPConflict", "Allocate",
		"Another host already uses an address of the pod. The text names its hardware address. The address is quarantined and the pod gets another one."}
	ownerNotProven = Kind{"Pod", warning, "OwnerNotProven", "Allocate",
		"The pod names a StatefulSet or a virtual machine as its owner, but the API server does not confirm it. The pod gets ordinary addresses, which are not kept for its successor. The text says what differs."}
	reclaimedIP = Kind{"Pod", normal, "ReclaimedIP", "Reclaim",
		"The agent or the controller reclaimed an address without a CNI DEL. The text gives the reason and the proof that no sandbox uses the address."}
	leaseRestored = Kind{"Pod", warning, "LeaseRestored", "Restore",
		"Another client removed the lease of an address that the pod uses, e.g. with kubectl. The agent restored the lease."}
	releaseRefused = Kind{"SpiderIPBlock", warning, "ReleaseRefused", "Release",
		"A user asked for the release of an address, e.g. with spiderpoolctl release, and the controller keeps it. The text says what may still use the address. A release is a ReclaimedIP of the former pod, with the reason UserRequest."}
	networkNotTrusted = Kind{"Node", warning, "NetworkNotTrusted", "Allocate",
		"Other hosts answer for more addresses than they can have, e.g. a router with proxy ARP or a pod with a raw socket. No address is quarantined, and the pod's ADD fails. The text names the hardware address and the way out."}
	nodeNotPrepared = Kind{"Node", warning, "NodeNotPrepared", "Preflight",
		"The node lacks something that underlay pods need. The text names each finding and the way out."}
	runtimeUnavailable = Kind{"Node", warning, "RuntimeUnavailable", "Reclaim",
		"The agent cannot ask the node's container runtime for its sandboxes, so it reclaims no address whose DEL was lost. The text gives the reason for each socket and the way out."}
	servicesLeft = Kind{"Node", warning, "ServicesLeftToKubeProxy", "Translate",
		"kube-proxy translates services of the node's pods that eBPF should: with service.mode ebpf, the node cannot run the programs, or a map is full. The text names the reason and the way out."}
	invalidService = Kind{"Service", warning, "InvalidService", "Translate",
		"Parts of the Service are invalid, e.g. a port with an unknown protocol. eBPF translates the other parts; kube-proxy gets the connections to these. The text names each field and the value."}
	invalidEndpoints = Kind{"EndpointSlice", warning, "InvalidEndpoints", "Translate",
		"Parts of the EndpointSlice are invalid, e.g. a port out of range. They are no backends of the Service. The text names each field and the value."}
	invalidPolicy = Kind{"NetworkPolicy, MultiNetworkPolicy, ClusterNetworkPolicy", warning, "InvalidPolicy", "Decide",
		"Parts of the policy are invalid, e.g. a bad CIDR, or unknown to this release. They allow nothing. The text names each field and the value."}
	tooManyPeers = Kind{"NetworkPolicy, MultiNetworkPolicy", warning, "TooManyPeers", "Resolve",
		"The policies of the namespace select more pods than one namespace may. The pods of this policy keep their last state, and new ones are closed. The text names a peer and the limits."}
	bandwidthNotChanged = Kind{"Pod", warning, "BandwidthNotChanged", "Shape",
		"An annotation for the bandwidth of a running pod is invalid, or the node cannot apply it. The pod keeps the limits that it has. The text names the annotation, the value and a valid one."}
	policyNotEnforced = Kind{"Pod", warning, "PolicyNotEnforced", "Enforce",
		"The network policies that select the pod are not in effect as they are now, because the node's kernel refuses the packet filter, or the peers of a policy are not known. The pod keeps the filter that it has; one without a filter is closed if peers stay unknown. The text names the reason."}
	addressesGone = Kind{"SpiderIPPool", warning, "AddressesGone", "Withdraw",
		"The cloud has taken addresses away from the network interface of the pool. No pod gets them any more. The text names the addresses and the pods that use them."}
	fixedAddressReturned = Kind{"SpiderIPPool", warning, "FixedAddressReturned", "Move",
		"The cloud showed a fixed address elsewhere than on the node of its pod, twice, so the controller assigned it there again. Another program, or a call of a controller that was paused, has moved it. The text names the address, the interface and the node."}
	addressesAssigned = Kind{"SpiderCloudNetwork", normal, "AddressesAssigned", "Assign",
		"The cloud has assigned addresses to network interfaces, because pods need them. The text names each node, its interface and the addresses. One event has all that the controller did at one time."}
	addressesReturned = Kind{"SpiderCloudNetwork", normal, "AddressesReturned", "Return",
		"The controller has given addresses back to the cloud that no pod needed for the time manage.coolDownMinutes. The text names each node, its interface and the addresses."}
	interfacesChanged = Kind{"SpiderCloudNetwork", normal, "InterfacesChanged", "Attach",
		"The controller has created, attached or deleted network interfaces. The text names them and their nodes."}
	cloudAddressesChanged = Kind{"Node", normal, CloudAddressesChangedReason, "Discover",
		"The metadata service of the node's instance shows other addresses than before. The controller asks the cloud about the node. The text names the addresses and the hardware address of the network interface."}
	attachmentCreated = Kind{"SpiderMultusConfig", normal, "AttachmentCreated", "Create",
		"The NetworkAttachmentDefinition was created."}
	attachmentAdopted = Kind{"SpiderMultusConfig", normal, "AttachmentAdopted", "Adopt",
		"A NetworkAttachmentDefinition without an owner now belongs to the SpiderMultusConfig."}
	attachmentUpdated = Kind{"SpiderMultusConfig", normal, "AttachmentUpdated", "Update",
		"The NetworkAttachmentDefinition got a new configuration."}
	attachmentDeleted = Kind{"SpiderMultusConfig", normal, "AttachmentDeleted", "Delete",
		"The NetworkAttachmentDefinition of a former name was deleted."}
)

// CloudAddressesChangedReason is the reason of events that have the controller ask the cloud.
const CloudAddressesChangedReason = "CloudAddressesChanged"

// kinds are all kinds of events but those of conditions; see NotReady.
var kinds = []Kind{
	failedAllocateIP, ipConflict, ownerNotProven, reclaimedIP, leaseRestored, releaseRefused, networkNotTrusted, nodeNotPrepared, runtimeUnavailable,
	servicesLeft, invalidService, invalidEndpoints, invalidPolicy, tooManyPeers, bandwidthNotChanged, policyNotEnforced,
	addressesGone, fixedAddressReturned, addressesAssigned, addressesReturned, interfacesChanged, cloudAddressesChanged, attachmentCreated, attachmentAdopted, attachmentUpdated, attachmentDeleted,
}

// FailedAllocateIP says why an interface of a pod gets no address.
func FailedAllocateIP(text string) Event { return event(failedAllocateIP, text) }

// IPConflict says that another host uses an address of a pod.
func IPConflict(text string) Event { return event(ipConflict, text) }

// OwnerNotProven says why the addresses of a pod are not fixed for the owner that it names.
func OwnerNotProven(doubt string) Event {
	return event(ownerNotProven, "the pod's addresses are not fixed: "+doubt)
}

// ReclaimedIP says which address of a pod was reclaimed, and why.
func ReclaimedIP(change reclaim.Change) Event { return event(reclaimedIP, change.String()) }

// ReleaseRefused says why an address is not released, although a user asked for it.
func ReleaseRefused(text string) Event { return event(releaseRefused, text) }

// LeaseRestored says which removed lease of a pod the agent restored.
func LeaseRestored(text string) Event { return event(leaseRestored, text) }

// TooManyPeers says which peers of a policy have no addresses.
func TooManyPeers(text string) Event { return event(tooManyPeers, text) }

// BandwidthNotChanged says why a running pod keeps the limits of its bandwidth.
func BandwidthNotChanged(reason string) Event {
	return event(bandwidthNotChanged, "the pod keeps its bandwidth: "+reason)
}

// PolicyNotEnforced says why the packet filter of a pod differs from its policies.
func PolicyNotEnforced(reason string) Event {
	return event(policyNotEnforced, "the pod's network policies are not in effect as they are now: "+reason)
}

// NetworkNotTrusted says why the answers of other hosts on a network of the node prove nothing.
func NetworkNotTrusted(text string) Event { return event(networkNotTrusted, text) }

// NodeNotPrepared lists the findings of the preflight of a node.
func NodeNotPrepared(findings string) Event { return event(nodeNotPrepared, findings) }

// RuntimeUnavailable says why the agent cannot ask the container runtime of the node.
func RuntimeUnavailable(fault string) Event { return event(runtimeUnavailable, fault) }

// ServicesLeftToKubeProxy says why eBPF does not translate services of a node.
func ServicesLeftToKubeProxy(reason string) Event { return event(servicesLeft, reason) }

// InvalidService lists the invalid parts of a Service.
func InvalidService(faults string) Event { return event(invalidService, faults) }

// InvalidEndpoints lists the invalid parts of an EndpointSlice.
func InvalidEndpoints(faults string) Event { return event(invalidEndpoints, faults) }

// InvalidPolicy lists the invalid parts of a policy.
func InvalidPolicy(faults string) Event {
	return event(invalidPolicy, "invalid parts fail closed: "+faults)
}

// AddressesGone says which addresses of a pool the cloud has taken away, and the pods that
// use them, e.g. "10.0.0.5 of default/web-0".
func AddressesGone(addresses string, holders []string) Event {
	text := "the cloud has taken " + addresses + " away; no pod gets them any more"
	if len(holders) > 0 {
		text += ", and these pods lost their network, so delete them: " + strings.Join(holders, ", ")
	}
	return event(addressesGone, text)
}

// FixedAddressReturned says that a fixed address is on the interface of its pod's node again.
func FixedAddressReturned(address, iface, node string) Event {
	return event(fixedAddressReturned, fmt.Sprintf("the cloud showed the fixed address %s elsewhere than on interface %s of node %s, whose pod has it; the controller assigned it there again. Nothing else may move it", address, iface, node))
}

// AddressesAssigned lists what the cloud has assigned, e.g. "172.31.32.16/28 to eni-1 of node worker1".
func AddressesAssigned(assigned []string) Event {
	return event(addressesAssigned, "assigned "+strings.Join(assigned, ", "))
}

// AddressesReturned lists what the cloud has got back, e.g. "172.31.32.16/28 of eni-1 of node worker1".
func AddressesReturned(returned []string) Event {
	return event(addressesReturned, "gave back "+strings.Join(returned, ", "))
}

// InterfacesChanged lists changes of network interfaces, e.g. "attached eni-1 to node worker1".
func InterfacesChanged(changes []string) Event {
	return event(interfacesChanged, strings.Join(changes, ", "))
}

// CloudAddressesChanged says what the cloud has assigned to network interfaces of a node, and taken from them.
func CloudAddressesChanged(text string) Event { return event(cloudAddressesChanged, text) }

// AttachmentCreated is about the owner of a NetworkAttachmentDefinition; name is "namespace/name".
func AttachmentCreated(name string) Event {
	return event(attachmentCreated, "created NetworkAttachmentDefinition "+name)
}

// AttachmentAdopted is about the new owner of a NetworkAttachmentDefinition; name is "namespace/name".
func AttachmentAdopted(name string) Event {
	return event(attachmentAdopted, "adopted NetworkAttachmentDefinition "+name+", which had no owner")
}

// AttachmentUpdated is about the owner of a NetworkAttachmentDefinition; name is "namespace/name".
func AttachmentUpdated(name string) Event {
	return event(attachmentUpdated, "updated NetworkAttachmentDefinition "+name)
}

// AttachmentDeleted is about the owner of a NetworkAttachmentDefinition of the former name ("namespace/name"),
// after the annotation of the owner was changed to another name.
func AttachmentDeleted(former, annotation, name string) Event {
	return event(attachmentDeleted, fmt.Sprintf("deleted NetworkAttachmentDefinition %s: annotation %s now names %s", former, annotation, name))
}

// NotReady repeats the condition Ready of an object with the status False, or a
// further condition that is True if something is wrong, so
// that `kubectl describe` and `kubectl get events` show it.
func NotReady(reason, message string) Event {
	return event(Kind{Type: warning, Reason: reason, Action: "Reconcile"}, message)
}

// maxText is the limit of the API server for a note of events.k8s.io/v1 and a
// message of core/v1, in bytes.
const maxText = 1024

func event(kind Kind, text string) Event { return Event{Kind: kind, Text: Truncate(text, maxText)} }

// Truncate cuts text to at most limit bytes without splitting a UTF-8 sequence
// and marks the cut with "...".
func Truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}
