// Command spiderpoolctl inspects and troubleshoots Spiderpool.
package main

import (
	"errors"
	"fmt"
	"os"

	"spiderpool.dev/spiderpool/internal/cli"
)

func main() {
	if err := cli.New().Execute(); err != nil {
		if !errors.Is(err, cli.ErrFound) {
			fmt.Fprintln(os.Stderr, "spiderpoolctl:", err)
		}
		os.Exit(1)
	}
}
