// Command coordinator is the CNI plugin for the routes between a pod, its node and Services.
package main

import "spiderpool.dev/spiderpool/internal/cni/coordinator"

func main() { coordinator.Main("CNI plugin coordinator of Spiderpool") }
