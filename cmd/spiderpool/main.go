// Command spiderpool is the CNI IPAM plugin. It gets its addresses from the node's agent.
package main

import "spiderpool.dev/spiderpool/internal/cni/ipamplugin"

func main() { ipamplugin.Main("CNI IPAM plugin spiderpool") }
