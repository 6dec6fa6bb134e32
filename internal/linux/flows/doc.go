// Package flows collects the connections of a node's pods.
//
//	c, err := flows.New(flows.Options{Log: log})
//	err = c.Attach(namespace, "/run/netns/cni-8f0b", flows.Pod{Name: pod, UID: uid})
//	err = c.Run(ctx, func(events []flow.Event, lost uint64) { … })
//
// An eBPF program (bpf/flows.c) at each interface of a pod, in both directions, notes the connections that open, end and
// are refused. A packet filter that drops a packet copies it to nflog, and the collector reads it in the pod's network
// namespace.
//
// Nothing waits for the collector: events without room in the ring buffer are counted and lost. With Options.Pins, maps and
// programs outlive the process, and the next Collector goes on with them.
//
// An incoming packet reaches the program before the packet filters. So an incoming connection of TCP or SCTP and an
// incoming echo request count as opened with their first answer. An incoming UDP packet needs none; its event waits for
// a moment, and a copy of the dropped packet cancels it.
package flows
