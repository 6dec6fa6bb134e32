// Package cli is the program spiderpoolctl, which inspects and troubleshoots
// Spiderpool. It prints text for people, so it does not use package process.
package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/process"
)

// errFound means that the command has printed a problem. Main then exits with 1 and
// prints nothing more.
var errFound = errors.New("the command found a problem")

// pluginName is the name of the program as a plugin of kubectl, which runs it for "kubectl spiderpool".
const pluginName = "kubectl-spiderpool"

// Main runs the program and ends the process: with exitFound after a finding, with exitFailed
// after an error, else with 0.
func Main() {
	root := newRoot()
	if strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe") == pluginName {
		asPlugin(root)
	}
	ctx, stop := process.UntilSignal()
	defer stop()
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errFound) {
		fmt.Fprintln(os.Stderr, root.DisplayName()+":", err)
	}
	os.Exit(exitCode(err))
}

// Exit codes. Their values are in docs/guides/cli.md.
const (
	exitFound  = 1 // the command answered, and printed a problem
	exitFailed = 2 // the command could not answer
)

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return exitFound
	}
	return exitFailed
}

// asPlugin makes the help of all commands say "kubectl spiderpool".
func asPlugin(cmd *cobra.Command) {
	const plugin = "kubectl spiderpool"
	if !cmd.HasParent() {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: plugin}
	}
	cmd.Example = strings.ReplaceAll(cmd.Example, "  "+cmd.Root().Name()+" ", "  "+plugin+" ")
	for _, sub := range cmd.Commands() {
		asPlugin(sub)
	}
}

// checkSystem refuses a command that reads the kernel of a node on another operating system than Linux. system is
// one of GOOS, e.g. "darwin".
func checkSystem(cmd *cobra.Command, system string) error {
	if system == "linux" {
		return nil
	}
	name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().DisplayName()+" ")
	return fmt.Errorf("%s reads the Linux kernel of a node, but this machine runs %s: run it in the agent of the node, e.g. kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl %[1]s", name, system)
}

func newRoot() *cobra.Command { return newRootAt(time.Now) }

// newRootAt returns the commands with another clock.
func newRootAt(now func() time.Time) *cobra.Command {
	root := &cobra.Command{
		Use:   "spiderpoolctl",
		Short: "Inspect and troubleshoot Spiderpool",
		Long: `Inspect and troubleshoot Spiderpool. The commands use the cluster and the rights of your
kubeconfig; only node and service also read the node. Exit codes: 0 is an answer, 1 an answer
with a problem, 2 no answer.`,
		Version:       config.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newCapacity(now), newCheck(now), newConnectivity(now), newIP(now), newNode(now), newObserve(now), newPod(now), newPolicy(now), newPool(now), newPreflight(now),
		newReclaim(now), newRelease(now), newService(now), newStatus(now), newSupportBundle(now))
	return root
}
