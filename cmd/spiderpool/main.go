// Command spiderpool is the CNI IPAM plugin: it asks the node's agent.
package main

import "spiderpool.dev/spiderpool/internal/cni/ipamplugin"

func main() { ipamplugin.Main("CNI IPAM plugin spiderpool") }
