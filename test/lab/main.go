// Command lab runs a real Kubernetes on this machine, on a simulated network:
// see README.md.
package main

import (
	"os"

	"spiderpool.dev/spiderpool/test/lab/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:]))
}
