package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/build"
	"spiderpool.dev/spiderpool/test/lab/internal/lab"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

func current() lab.Lab {
	return lab.Lab{Dir: state.Default(), Cache: build.DefaultCache(), Out: os.Stdout}
}

func client() machine.Client { return machine.At(state.Default().Socket()) }

func controlPlane() machine.Client { return machine.At(state.Default().ControlSocket()) }

func buildCommand() *cobra.Command {
	var conformance bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the lab's programs missing from the cache",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := current()
			if conformance {
				l.Out = os.Stderr
			}
			built, err := buildAll(cmd.Context(), l, conformance)
			if err == nil && conformance {
				fmt.Println(built.Suite)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&conformance, "conformance", false, "also build Kubernetes' conformance tests; print the directory with e2e.test and the image archives")
	return cmd
}

// buildAll builds the programs for all topologies on this machine and, on request,
// Kubernetes' conformance tests.
func buildAll(ctx context.Context, l lab.Lab, conformance bool) (lab.Built, error) {
	guest, err := lab.NeedsGuest()
	if err != nil {
		return lab.Built{}, err
	}
	return l.Build(ctx, lab.Parts{Guest: guest, Conformance: conformance})
}

func upCommand() *cobra.Command {
	var options lab.Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the lab",
		Long: `Start the lab: a simulated network with a Kubernetes cluster on it. The cluster
has no CNI configuration. The remains of an interrupted "lab up" are removed first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return current().Up(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Topology, "topology", "aws", "network: "+strings.Join(topology.Names(), ", ")+", or a file")
	flags.IntVar(&options.Nodes, "nodes", 0, "number of nodes (default: all nodes of the topology)")
	flags.StringVar(&options.Kernel, "kernel", lab.KernelAuto, "auto, host or uml; auto is uml (User Mode Linux) if the topology needs ipvlan and this machine's kernel has none, else host")
	flags.StringVar(&options.KubeProxyMode, "kube-proxy-mode", "iptables", "iptables, nftables or ipvs")
	return cmd
}

func downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the lab and remove everything",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return current().Down(cmd.Context())
		},
	}
}

func statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the lab's daemons",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return status(cmd.Context())
		},
	}
}

func status(ctx context.Context) error {
	dir := state.Default()
	config, err := dir.Load()
	if err != nil {
		return err
	}
	nodes, err := client().Status(ctx)
	if err != nil {
		return fmt.Errorf("the lab is half up (remove it with `lab down`): %w", err)
	}
	control, err := controlPlane().Status(ctx)
	if err != nil {
		return fmt.Errorf("the lab is half up (remove it with `lab down`): %w", err)
	}
	how := "up"
	if !config.Complete || !nodes.Up || !control.Up {
		how = "half up"
	}
	fmt.Printf("Lab        %s since %s\n", how, config.Started.Format(time.DateTime))
	fmt.Printf("Topology   %s, %d nodes, kube-proxy mode %s\n", config.Topology, config.Nodes, config.KubeProxyMode)
	fmt.Printf("Kernel     %s (%s); of the control plane %s\n", nodes.Kernel, config.Kernel, control.Kernel)
	fmt.Printf("API        https://%s\n", config.Endpoint)
	fmt.Printf("Kubeconfig %s\n", dir.Kubeconfig())
	fmt.Printf("Logs       %s\n", dir.Logs())
	fmt.Printf("Hosts      %s\n\n", strings.Join(nodes.Hosts, " "))
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "DAEMON\tPROCESS\tUP\tRESTARTS\tLAST EXIT")
	for _, d := range append(control.Daemons, nodes.Daemons...) {
		process, up := "-", "-"
		if d.Process != 0 {
			process, up = fmt.Sprint(d.Process), time.Since(d.Started).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", d.Name, process, up, d.Restarts, d.LastExit)
	}
	return table.Flush()
}

func envCommand() *cobra.Command {
	var dirOnly bool
	cmd := &cobra.Command{
		Use:     "env",
		Short:   "Print shell commands that point kubectl, helm and ctr at the lab",
		Example: `  eval "$(lab env)"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := current()
			if dirOnly {
				l.Out = os.Stderr
				built, err := buildAll(cmd.Context(), l, false)
				if err == nil {
					fmt.Println(built.Programs)
				}
				return err
			}
			if _, err := l.Dir.Load(); err != nil {
				return err
			}
			fmt.Printf("export KUBECONFIG=%q\nexport PATH=%q:\"$PATH\"\n", l.Dir.Kubeconfig(), l.Tools())
			return nil
		},
	}
	cmd.Flags().BoolVar(&dirOnly, "dir", false, "print only the directory of kube-apiserver, etcd and kubectl (works without a running lab)")
	return cmd
}
