// Command spiderpool-console serves the web page with pools, nodes, pods, events
// and flows.
package main

import (
	"spiderpool.dev/spiderpool/internal/console"
	"spiderpool.dev/spiderpool/internal/process"
)

func main() { process.Main(console.Command) }
