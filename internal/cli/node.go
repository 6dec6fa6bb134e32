package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc"
)

func newNode(now func() time.Time) *cobra.Command {
	var ipv6 bool
	var output, socket string
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Check whether this node can run underlay pods",
		Long: `Check the node's kernel version, link kinds, sysctls and firewall against the
requirements of underlay pods, and print both. The command checks its own network
namespace, which in a spiderpool-agent is the node's. It also asks the agent whether
the container runtime answers. It changes nothing. The exit code is 1 if a
requirement is not met.`,
		Example: `  # in the agent of the node
  kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl node

  # as JSON, for scripts
  spiderpoolctl node --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(checkFormat(cmd), checkSystem(cmd, runtime.GOOS)); err != nil {
				return err
			}
			findings, err := examine(ipv6)
			if err != nil {
				return err
			}
			all := append(findings, runtimeFindings(cmd.Context(), cmp.Or(socket, agentSocket()))...)
			if len(netplan.Failed(all)) > 0 {
				err = errFound
			}
			return errors.Join(findingsAnswer(all).print(cmd.OutOrStdout(), output, now()), err)
		},
	}
	cmd.Flags().BoolVar(&ipv6, "ipv6", true, "also check the requirements of pods with IPv6 addresses")
	cmd.Flags().StringVar(&socket, "socket", "", "unix socket of the agent; empty for that of the configuration")
	formatFlag(cmd, &output, "table", "json", "yaml")
	cmd.AddCommand(newNodeShow(now))
	return cmd
}

// agentSocket returns the socket in the configuration file of this pod, or the default one.
func agentSocket() string {
	file, err := config.Load(config.DefaultPath)
	if err != nil {
		file = config.Default()
	}
	return file.AgentProcess.SocketPath
}

// runtimeFindings returns what the agent knows of the container runtime; nothing if the
// node has no agent.
func runtimeFindings(ctx context.Context, socket string) []netplan.Finding {
	if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	found := netplan.Finding{What: "container runtime", Is: "silent", Want: "answering"}
	reply, err := rpc.Client{Socket: socket}.Runtime(ctx)
	switch {
	case err != nil:
		found.Why = err.Error()
	case reply.Fault != "":
		found.Why = "an address whose DEL was lost is not reclaimed: " + reply.Fault
	default:
		found.Is, found.OK = strings.TrimSpace("answering "+reply.Socket), true
	}
	return []netplan.Finding{found}
}

// findingsAnswer draws the findings, then those of failed checks as sentences.
func findingsAnswer(findings []netplan.Finding) answer {
	return answer{value: findings, draw: func(w drawing) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CHECK\tVALUE\tREQUIRED\t")
		for _, f := range findings {
			verdict := w.green + "ok" + w.plain
			if !f.OK {
				verdict = w.red + "FAILED" + w.plain
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.What, f.Is, f.Want, verdict)
		}
		_ = t.Flush()
		fmt.Fprintln(w)
		lacking := netplan.Failed(findings)
		if len(lacking) == 0 {
			fmt.Fprintln(w, "The node meets all requirements of underlay pods.")
		}
		for _, f := range lacking {
			fmt.Fprintln(w, f)
		}
	}}
}
