// Command spiderpool-agent allocates the addresses of its node's pods.
package main

import (
	"spiderpool.dev/spiderpool/internal/agent"
	"spiderpool.dev/spiderpool/internal/process"
)

func main() { process.Main(agent.Command) }
