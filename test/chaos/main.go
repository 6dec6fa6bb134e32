// Command chaos injects faults into an installation while pods come and go. It checks
// that no address ever had two holders and that no address is lost.
//
// Its simulated nodes (package sim) have runtimes with a constant load of ADD, CHECK and
// DEL calls. It kills agents, controller, API server and etcd at random (SIGKILL), pauses
// agents at any point (SIGSTOP), and records every call. In the end it stops the faults
// and checks:
//
//   - no address had two holders at once, and a repeated ADD returned the same
//     addresses (package history);
//   - a DEL failed only while its agent was down, so DEL works without the API server;
//   - a CHECK of an ADD's result failed only while its agent or the API server was
//     down;
//   - after the last pod, no lease is in use and no endpoint exists; sandboxes that
//     disappeared without a DEL were reclaimed;
//   - every address of the pools can be allocated again.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/sim"
)

// options are the command line flags.
type options struct {
	time     time.Duration
	nodes    int
	workers  int
	seed     uint64
	lost     float64
	plugin   string
	assets   string
	bin      string
	dir      string
	keep     bool
	quietFor time.Duration
}

const examples = `  # One minute, like make test:
  sudo go run ./test/chaos

  # Ten minutes, like make chaos:
  sudo go run ./test/chaos --time 10m

  # The random choices of an earlier run; the timing still differs:
  sudo go run ./test/chaos --seed 42 --keep`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "chaos",
		Short:         "Inject random faults while pods come and go, and check every answer",
		Example:       examples,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), &o) },
	}
	f := c.Flags()
	f.DurationVar(&o.time, "time", time.Minute, "duration of the faults")
	f.IntVar(&o.nodes, "nodes", 3, "simulated nodes")
	f.IntVar(&o.workers, "workers", 4, "concurrent pods per node")
	f.Uint64Var(&o.seed, "seed", 0, "seed of all choices (default a random one, printed at the start)")
	f.Float64Var(&o.lost, "lost", 0.05, "share of sandboxes that disappear without a DEL and must be reclaimed")
	f.StringVar(&o.plugin, "plugin", "spiderpool", "definition of the plugin, see package sim")
	f.StringVar(&o.assets, "assets", "", "directory of etcd and kube-apiserver (default $KUBEBUILDER_ASSETS, else the output of make lab-tools)")
	f.StringVar(&o.bin, "bin", "", "directory of the programs; if empty, they are built")
	f.StringVar(&o.dir, "dir", "", "directory for state and logs (default a new one in $TMPDIR)")
	f.BoolVar(&o.keep, "keep", false, "keep state, logs and call history even after success")
	f.DurationVar(&o.quietFor, "heal", 90*time.Second, "limit for the reclaim of leases at the end")
	return c
}

// run builds missing programs, moves into its own network namespace and runs the faults
// there.
func run(ctx context.Context, o *options) (err error) {
	if o.nodes < 1 || o.nodes > 20 || o.workers < 1 || o.workers > 50 {
		return fmt.Errorf("--nodes %d, --workers %d: want 1 to 20 nodes and 1 to 50 workers", o.nodes, o.workers)
	}
	if o.lost < 0 || o.lost > 0.5 {
		return fmt.Errorf("--lost %g: want a share from 0 to 0.5", o.lost)
	}
	definition, err := sim.LoadDefinition(o.plugin)
	if err != nil {
		return err
	}
	root, err := sim.Root()
	if err != nil {
		return err
	}
	if o.assets, err = sim.Assets(ctx, root, o.assets); err != nil {
		return err
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	if o.dir, o.bin, err = sim.Prepare(ctx, sim.Preparation{Prefix: "chaos", Dir: o.dir, Bin: o.bin, Root: root, Definitions: []*sim.Definition{definition}}); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "chaos: %s, %d nodes with %d concurrent pods, seed %d, files in %s\n", o.time, o.nodes, o.workers, o.seed, o.dir)
	c := newChaos(o)
	err = c.run(ctx, definition, root)
	if err != nil || o.keep {
		return errors.Join(err, c.history.Write(filepath.Join(o.dir, "history.jsonl")))
	}
	return os.RemoveAll(o.dir)
}
