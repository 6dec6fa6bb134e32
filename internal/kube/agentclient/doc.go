// Package agentclient reads and writes what one node's agent needs from the API
// server: it implements the ports of the use cases (ipam) for one node.
//
// An agent links it, so it does without controller-runtime and the types of the
// whole of Kubernetes.
package agentclient
