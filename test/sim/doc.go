// Package sim is a cluster to measure and to break: a real etcd and
// kube-apiserver, and nodes of which only the network part exists.
//
// A simulated node is a Node object, its agent process, the sandboxes that its
// "runtime" has, and CNI calls made as a runtime makes them: a process for each
// call, with environment and standard input. There is no kubelet and no scheduler;
// the caller makes pods and names their nodes.
//
// Everything runs in a network namespace of its own (Isolate), where only the
// loopback device exists, so fixed ports are free and nothing can be reached from
// outside, nor anything outside from here. Processes die with the program that
// started them. Root is needed.
package sim
