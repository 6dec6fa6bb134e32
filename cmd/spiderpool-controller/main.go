// Command spiderpool-controller runs the cluster-wide tasks: network attachments,
// status of custom resources, reclaim and admission.
package main

import (
	"spiderpool.dev/spiderpool/internal/controller"
	"spiderpool.dev/spiderpool/internal/process"
)

func main() { process.Main(controller.Command) }
