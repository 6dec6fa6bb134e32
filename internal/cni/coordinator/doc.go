// Package coordinator is the CNI plugin "coordinator". It follows the main
// plugin in the chain of an attachment and sets up routes in the pod and on its
// node: the pod reaches the node and ClusterIPs, the node reaches the pod, and
// replies take the path of their requests.
//
// ADD gets the cluster's configuration from the agent, plans the state of both
// namespaces (package netplan) and applies it (package linux). It is idempotent
// and undoes its changes if it fails. CHECK makes the same plan and reports the
// differences. DEL needs neither the agent nor the pod's namespace and succeeds
// if there is nothing to remove. The result is the main plugin's, except for a
// hardware address changed by podMACPrefix.
package coordinator
