// Command chaos breaks the installation while pods come and go, and checks that
// no address was ever given to two and that none is lost.
//
// It runs simulated nodes (package sim) whose runtimes make ADD, CHECK and DEL calls all
// the time, kills agents, controller, API server and etcd at random (SIGKILL) and
// pauses agents in the middle of what they do, records every call, and at the end
// lets everything heal. Then it judges:
//
//   - no address was held by two interfaces at a time, and an ADD that was repeated
//     gave the same addresses (package history);
//   - a DEL failed only while its agent was away, so it succeeded with the API
//     server away;
//   - a CHECK with what the ADD returned failed only while its agent or the API
//     server was away;
//   - when all pods are gone, no lease is in use and no endpoint is left; sandboxes
//     that vanished without a DEL were reclaimed;
//   - every address of the pools can be had again.
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

// options are the command line.
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

const examples = `  # A minute, as in make test:
  sudo go run ./test/chaos

  # Ten minutes, as in make chaos:
  sudo go run ./test/chaos --time 10m

  # The choices of an earlier run; timing differs all the same:
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
		Short:         "Kill parts of the installation at random while pods come and go, and check every answer",
		Example:       examples,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), &o) },
	}
	f := c.Flags()
	f.DurationVar(&o.time, "time", time.Minute, "for how long to break things")
	f.IntVar(&o.nodes, "nodes", 3, "simulated nodes")
	f.IntVar(&o.workers, "workers", 4, "pods at a time on a node")
	f.Uint64Var(&o.seed, "seed", 0, "seed of all choices (default a random one, which is printed)")
	f.Float64Var(&o.lost, "lost", 0.05, "share of sandboxes that vanish without a DEL, for the controller to reclaim")
	f.StringVar(&o.plugin, "plugin", "spiderpool", "definition of the plugin, see package sim")
	f.StringVar(&o.assets, "assets", "", "directory of etcd and kube-apiserver (default $KUBEBUILDER_ASSETS, else what make lab-tools built)")
	f.StringVar(&o.bin, "bin", "", "directory of the programs; empty builds them")
	f.StringVar(&o.dir, "dir", "", "directory for state and logs (default a new one in $TMPDIR)")
	f.BoolVar(&o.keep, "keep", false, "keep state, logs and the history of calls also when all is well")
	f.DurationVar(&o.quietFor, "heal", 90*time.Second, "for how long to wait for leases to be reclaimed at the end")
	return c
}

// run builds what is missing, moves into a network namespace of its own and
// breaks things there.
func run(ctx context.Context, o *options) (err error) {
	if o.nodes < 1 || o.nodes > 20 || o.workers < 1 || o.workers > 50 {
		return fmt.Errorf("--nodes %d, --workers %d: give 1 to 20 nodes and 1 to 50 workers", o.nodes, o.workers)
	}
	if o.lost < 0 || o.lost > 0.5 {
		return fmt.Errorf("--lost: %g is not accepted: give a share from 0 to 0.5", o.lost)
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
	fmt.Fprintf(os.Stderr, "chaos: %s, %d nodes with %d pods at a time, seed %d, files in %s\n", o.time, o.nodes, o.workers, o.seed, o.dir)
	c := newChaos(o)
	err = c.run(ctx, definition, root)
	if err != nil || o.keep {
		return errors.Join(err, c.history.Write(filepath.Join(o.dir, "history.jsonl")))
	}
	return os.RemoveAll(o.dir)
}
