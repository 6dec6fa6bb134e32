// Package cli is the lab's command line: it parses flags, calls the package with
// the logic, and prints. No other package prints errors.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// exitCode is the exit code of a command run on a host of the lab. The command
// has printed its own error.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// Run executes a command line and returns the exit code of the process: 0, 1 for
// an error of the lab, or the exit code of the command run by `exec` or `kubectl`.
func Run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A real Kubernetes cluster on one machine, on a simulated network",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), downCommand(), statusCommand(), envCommand(), buildCommand(),
		kubectlCommand(), execCommand(), imageCommand(), daemonCommand(), rebootCommand())
	root.AddCommand(insideCommands()...)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
}
