// Package service turns Services, EndpointSlices and one node into the entries of the maps that eBPF programs read to
// translate service addresses on that node.
//
// A Table holds the state. Each change of an object returns a Diff: the entries to write and to delete, which are
// those of one service. The rules are those of kube-proxy and of the Kubernetes API, so it does not matter to a pod
// whether the program or the node translates its connection:
//
//   - Endpoints: ready ones; else those that serve while they terminate (KEP-1669, KEP-1672). See choose.
//   - internalTrafficPolicy Local: the endpoints of this node only. Without one, the cluster IP refuses connections, as
//     if the service had no endpoints (KEP-2086, documentation of the service internal traffic policy).
//   - externalTrafficPolicy Local does not concern clients in the cluster. See frontendsOf.
//   - Hints for zones (KEP-2433) and nodes (KEP-3015), which trafficDistribution (KEP-4444) makes, too.
//   - A frontend without backends refuses connections. A SCTP frontend, and a load balancer for some clients only,
//     pass: the node translates them.
//   - Of two services with one frontend, the API server's assignment wins over the author's (Kind), then the older one.
//
// # Scenarios
//
// testdata/*.txtar are tests as text: manifests in, entries out. Each begins with a comment that states the rule under
// test. The clients are on the node n1. The sections are played in order:
//
//	-- cluster --      Node, Service and EndpointSlice objects as YAML documents
//	-- entries --      all entries after that
//	-- apply WHY --    objects to add or to replace
//	-- diff --         the changed entries: "+" is written, "-" deleted, "!" an invalid part
//	-- delete WHY --   one object per line, e.g. "Service default/web"
//	-- diff --
//
// Run go test -update ./internal/service to write entries and diff, then read them as carefully as code.
package service
