// Command ifacer is the CNI plugin for VLAN and bond interfaces on the node.
package main

import "spiderpool.dev/spiderpool/internal/cni/ifacer"

func main() { ifacer.Main("CNI plugin ifacer of Spiderpool") }
