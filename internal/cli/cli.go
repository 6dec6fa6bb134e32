// Package cli is the program spiderpoolctl, which explains to people what
// Spiderpool does and lacks.
package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/config"
)

// ErrFound is returned after a command has printed that something is not as it
// should be; there is nothing more to print.
var ErrFound = errors.New("something is not as it should be")

// New returns the command spiderpoolctl.
func New() *cobra.Command {
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
