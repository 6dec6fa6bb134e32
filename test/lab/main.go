// Command lab runs a real Kubernetes cluster on this machine, on a simulated
// network. See README.md.
package main

import (
	"os"

	"spiderpool.dev/spiderpool/test/lab/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:]))
}
