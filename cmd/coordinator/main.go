// Command coordinator is the CNI plugin that arranges a pod's interfaces and its node.
package main

import "spiderpool.dev/spiderpool/internal/cni/coordinator"

func main() { coordinator.Main("CNI plugin coordinator of Spiderpool") }
