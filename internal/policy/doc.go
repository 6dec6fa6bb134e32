// Package policy decides which packets the NetworkPolicies of a cluster let in and out of a pod.
//
// A Cluster is a snapshot of policies, pods and namespaces. Decide returns the Filter of one pod: the policies that
// isolate it, and the addresses and ports that each rule allows. Filter.Sets is the same decision as sets of addresses
// by ports, for a kernel: two filters that allow the same packets have equal Sets. Verdict judges one packet and names
// the deciding policy and rule.
//
// The rules are those of the NetworkPolicy API (https://kubernetes.io/docs/concepts/services-networking/network-policies/):
//
//   - A pod is isolated in a direction if a policy of that direction selects it. Then only packets pass that a rule of
//     any of these policies allows. A connection needs both the egress of its source and the ingress of its destination.
//   - A peer is an address. Selectors choose the addresses of pods; an ipBlock chooses any address, of pods, too.
//   - A named port is that of the destination pod, so one rule may allow another number for each pod.
//   - A rule with ports concerns TCP, UDP and SCTP only. A rule without ports allows every IP protocol.
//   - Traffic of a pod with itself and with its own node always passes.
//   - NetworkPolicies and ClusterNetworkPolicies concern the default interface of a pod. A MultiNetworkPolicy concerns its
//     other interfaces on the networks that the policy names, and the pods of a peer are their addresses on these networks.
//   - Pods on the network of their node are no peers of selectors, because all of them have the node's address, and no
//     policy isolates them.
//
// The zero values of Peer, Port and Rule match nothing. So a part that this release does not understand allows no packet.
//
// # Scenarios
//
// testdata/*.txtar are tests as text. Each begins with a comment that states the rule under test. The sections are
// played in order; lines with "=>" and the content of show are outputs:
//
//	-- cluster --                         namespaces, pods, SpiderEndpoints and policies as YAML documents
//	-- apply WHY --                       objects to add or to replace; the changed sets of all pods
//	-- show NAMESPACE/NAME [INTERFACE] -- the rules for a pod, and its sets behind "="
//	-- trace --                           packets, one per line, e.g. "TCP 10.6.0.2 10.6.0.1 80"; the verdict on each
//
// Run go test -update ./internal/policy to write the outputs, then read them as carefully as code.
package policy
