// Package sim simulates a cluster for benchmarks and fault tests: a real etcd and
// kube-apiserver, and nodes with only their network part.
//
// A simulated node is a Node object, its agent process, its runtime's list of sandboxes,
// and CNI calls in the way of a runtime: one process per call, with environment and
// standard input. There is no kubelet and no scheduler; the caller creates pods and
// assigns their nodes.
//
// Everything runs in its own network namespace (Isolate) with only a loopback device. So
// fixed ports are free, and there is no traffic to or from the outside. Processes die
// with the program that started them. It needs root.
package sim
