// Command bench measures IPAM plugins on a cluster of simulated nodes.
//
// It starts a real etcd, which syncs to disk, and a real kube-apiserver in their own
// network namespace. It installs a plugin with its agents and makes CNI calls like a
// container runtime: one process per call. See --help for the scenarios, and package
// sim for the simulation.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/sim"
)

// options are the command line flags.
type options struct {
	plugins   []string
	scenarios string
	nodes     int
	workers   int
	pods      int
	repeat    int
	assets    string
	bin       string
	json      string
	dir       string
	keep      bool
	check     bool
}

const examples = `  # All scenarios with both plugins, like the figures in the documentation:
  sudo go run ./test/bench

  # One scenario, fast:
  sudo go run ./test/bench --scenarios A --plugins spiderpool --pods 100

  # Medians of three runs:
  sudo go run ./test/bench --repeat 3

  # Another plugin, defined by a YAML file like those in test/sim/plugins:
  sudo go run ./test/bench --plugins host-local,spiderpool,./mine.yaml

  # Keep the logs, or profile an agent while it runs:
  sudo go run ./test/bench --scenarios C --keep`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "bench",
		Short:         "Measure IPAM plugins on a real API server with simulated nodes",
		Long:          "Measure IPAM plugins on a real kube-apiserver and etcd with simulated nodes.\n\nScenarios:\n" + describeScenarios(),
		Example:       examples,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), &o) },
	}
	f := c.Flags()
	f.StringSliceVar(&o.plugins, "plugins", []string{"host-local", "spiderpool"},
		"comma-separated plugins: "+strings.Join(sim.BuiltinDefinitions(), ", ")+", or files")
	f.StringVar(&o.scenarios, "scenarios", "A,B,C,D,E,F,G,H", "comma-separated scenarios from the list above")
	f.IntVar(&o.nodes, "nodes", 4, "simulated nodes")
	f.IntVar(&o.workers, "workers", 8, "concurrent calls per node")
	f.IntVar(&o.pods, "pods", 500, "total number of pods")
	f.IntVar(&o.repeat, "repeat", 1, "runs per scenario; the report has the medians")
	f.StringVar(&o.assets, "assets", "", "directory of etcd and kube-apiserver (default $KUBEBUILDER_ASSETS, else the output of make lab-tools)")
	f.StringVar(&o.bin, "bin", "", "directory of the programs; if empty, they are built")
	f.StringVar(&o.json, "json", "", "file for the results (default bench.json in the repository)")
	f.StringVar(&o.dir, "dir", "", "directory for state and logs; etcd syncs to its disk (default a new one in $TMPDIR)")
	f.BoolVar(&o.keep, "keep", false, "keep state and logs")
	f.BoolVar(&o.check, "check", false, "fail if any target is missed")
	return c
}

func describeScenarios() string {
	var text strings.Builder
	for _, s := range scenarios {
		fmt.Fprintf(&text, "  %s  %s\n", s.name, s.about)
	}
	return text.String()
}

func (o *options) validate() error {
	for name, n := range map[string]int{"nodes": o.nodes, "workers": o.workers, "pods": o.pods, "repeat": o.repeat} {
		if n < 1 {
			return fmt.Errorf("--%s %d: want 1 or more", name, n)
		}
	}
	if most := 50; o.nodes > most {
		return fmt.Errorf("--nodes %d: want at most %d, because each node has an agent process and a subnet", o.nodes, most)
	}
	if most := 16_000; o.pods > most {
		return fmt.Errorf("--pods %d: want at most %d, because a pool can have four times as many addresses", o.pods, most)
	}
	return nil
}

// run builds missing programs, moves into its own network namespace and measures
// there.
func run(ctx context.Context, o *options) error {
	if err := o.validate(); err != nil {
		return err
	}
	picked, err := scenariosNamed(o.scenarios)
	if err != nil {
		return err
	}
	var definitions []*sim.Definition
	for _, name := range o.plugins {
		d, err := sim.LoadDefinition(name)
		if err != nil {
			return err
		}
		definitions = append(definitions, d)
	}
	root, err := sim.Root()
	if err != nil {
		return err
	}
	if o.assets, err = sim.Assets(ctx, root, o.assets); err != nil {
		return err
	}
	o.dir, o.bin, err = sim.Prepare(ctx, sim.Preparation{Prefix: "bench", Dir: o.dir, Bin: o.bin, Root: root, Definitions: definitions})
	if err != nil {
		return err
	}
	defer o.cleanUp()
	if o.json == "" {
		o.json = filepath.Join(root, "bench.json")
	}
	return measure(ctx, o, root, definitions, picked)
}

func (o *options) cleanUp() {
	if o.keep {
		fmt.Fprintf(os.Stderr, "state, logs and programs are in %s\n", o.dir)
		return
	}
	if err := os.RemoveAll(o.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}
