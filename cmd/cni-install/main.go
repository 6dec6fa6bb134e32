// Command cni-install installs the CNI plugins and the configuration of Multus on
// the node of its pod.
package main

import (
	"spiderpool.dev/spiderpool/internal/cniinstall"
	"spiderpool.dev/spiderpool/internal/process"
)

func main() { process.Main(cniinstall.Command) }
