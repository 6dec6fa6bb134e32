// Package agentclient implements the ports of package ipam for the agent of one node:
// it reads and writes Kubernetes objects.
//
//   - Cluster: pods, namespaces, the node and network attachments
//   - PoolSync and Pools: SpiderIPPools, SpiderReservedIPs and blocks of this node
//   - BlockStore: SpiderIPBlocks, the leases
//   - Endpoints: SpiderEndpoints, written in the background
//   - Events: events about pods and the node
//
// The agent runs on every node, so memory counts: the package uses neither
// controller-runtime nor client-go's typed clientset.
package agentclient
