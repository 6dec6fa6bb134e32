// Package cli is the program spiderpoolctl, which explains to people what
// Spiderpool does and lacks.
package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/config"
)

// errFound is returned after a command has printed that something is not as it
// should be; there is nothing more to print.
var errFound = errors.New("something is not as it should be")

// Main runs the program and ends the process: with 0, or with 1 after an error or a finding.
func Main() {
	if err := newRoot().Execute(); err != nil {
		if !errors.Is(err, errFound) {
			fmt.Fprintln(os.Stderr, "spiderpoolctl:", err)
		}
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "spiderpoolctl",
		Short:         "Explain what Spiderpool does and lacks",
		Version:       config.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newNode())
	return root
}
