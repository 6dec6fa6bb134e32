// Package coordinator is the CNI plugin "coordinator": chained behind the main
// plugin of an attachment, it arranges the pod's interfaces and its node, so
// that the pod reaches the node and ClusterIPs, the node reaches the pod, and
// replies take the path of their requests.
//
// ADD asks the agent for the cluster's configuration, plans the state of both
// namespaces (package netplan) and applies it (package linux); it is idempotent
// and, when it fails, leaves nothing of its own behind. CHECK makes the same
// plan and reports what differs. DEL needs neither the agent nor the pod's
// namespace and succeeds when there is nothing left to remove. The result is
// that of the main plugin, but for a hardware address that podMACPrefix changed.
package coordinator
