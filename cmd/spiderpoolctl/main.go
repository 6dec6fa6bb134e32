// Command spiderpoolctl inspects and troubleshoots Spiderpool.
package main

import "spiderpool.dev/spiderpool/internal/cli"

func main() { cli.Main() }
