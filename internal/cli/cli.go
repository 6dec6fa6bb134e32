// Package cli is the program spiderpoolctl, which inspects and troubleshoots
// Spiderpool. It prints text for people, so it does not use package process.
package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/config"
)

// errFound means that the command has printed a problem. Main then exits with 1 and
// prints nothing more.
var errFound = errors.New("the command found a problem")

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
		Short:         "Inspect and troubleshoot Spiderpool",
		Version:       config.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newNode(), newPolicy(), newService())
	return root
}
