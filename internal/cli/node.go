package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func newNode() *cobra.Command {
	var ipv6 bool
	var output string
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Check whether this node can run underlay pods",
		Long: `Check the node's kernel version, link kinds, sysctls and firewall against the
requirements of underlay pods, and print both. The command checks its own network
namespace, which in a spiderpool-agent is the node's. It changes nothing. The exit
code is 1 if a requirement is not met.`,
		Example: `  # in the agent of the node
  kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl node

  # as JSON, for scripts
  spiderpoolctl node --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output %q: write table or json", output)
			}
			findings, err := examine(ipv6)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), findings, output)
		},
	}
	cmd.Flags().BoolVar(&ipv6, "ipv6", true, "also check the requirements of pods with IPv6 addresses")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "output format: table or json")
	return cmd
}

func examine(ipv6 bool) ([]netplan.Finding, error) {
	host, err := linux.Current()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	facts, err := host.Facts(netplan.LinkKinds...)
	if err != nil {
		return nil, fmt.Errorf("examine the node (run as root in the node's network namespace, e.g. in the agent): %w", err)
	}
	return netplan.Preflight(facts, ipv6), nil
}

// show prints the findings, and returns errFound if the node fails one.
func show(out io.Writer, findings []netplan.Finding, output string) error {
	lacking := netplan.Failed(findings)
	var err error
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(findings)
	} else {
		err = table(out, findings, lacking)
	}
	if err == nil && len(lacking) > 0 {
		err = errFound
	}
	return err
}

func table(out io.Writer, findings, lacking []netplan.Finding) error {
	red, green, plain := "", "", ""
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		red, green, plain = "\x1b[31m", "\x1b[32m", "\x1b[0m"
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHECK\tVALUE\tREQUIRED\t")
	for _, f := range findings {
		verdict := green + "ok" + plain
		if !f.OK {
			verdict = red + "FAILED" + plain
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.What, f.Is, f.Want, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(lacking) == 0 {
		_, err := fmt.Fprintln(out, "\nThe node meets all requirements of underlay pods.")
		return err
	}
	fmt.Fprintln(out)
	for _, f := range lacking {
		fmt.Fprintln(out, f)
	}
	return nil
}
