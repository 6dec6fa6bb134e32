// Package benchservice measures connections of pods to services: translated by eBPF at the socket, by kube-proxy
// on the node in each of its modes, and not at all, to the backend's own address. `make bench-service` runs it.
//
// Nodes and pods are network namespaces on one switch. The pods are macvlan pods with the plan of the real
// coordinator. The services are in a real API server, which the real kube-proxy of the lab watches, one per mode on a
// node of its own. All paths exist at the same time, and each round measures all of them, so that a disturbance of
// the machine hits all.
//
// `make bench-policy` measures connections between two pods with policies, and `make bench-flows` with observation, with the
// same load.
package benchservice
