// Command bench-start measures the time that a pod's network takes on the lab: each CNI
// plugin's wall clock and CPU time, and the kubelet's time for the sandbox. It compares
// these networks in one run, in dual stack and in IPv4:
//
//   - macvlan with Spiderpool, behind Multus, as in the guide;
//   - the same without Multus;
//   - a bridge with host-local and portmap, as most clusters have, behind Multus;
//   - the same without Multus, the baseline.
//
// It starts a lab with the topology l2 and puts a stopwatch in the place of every
// plugin of one node. The stopwatch's own start is part of the time of the plugin that
// calls it, in every network.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"spiderpool.dev/spiderpool/test/e2e/walk"
	"spiderpool.dev/spiderpool/test/stats"
)

// options are the command line flags.
type options struct {
	lab    string
	pods   int
	rounds int
	json   string
}

func main() {
	var o options
	flag.StringVar(&o.lab, "lab", "bin/lab", "path of the lab program")
	flag.IntVar(&o.pods, "pods", 20, "pods started one at a time, per network and IP stack")
	flag.IntVar(&o.rounds, "rounds", 3, "times that ten pods start at once, per network and IP stack")
	flag.StringVar(&o.json, "json", "bench-start.json", "file for the results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.pods < 1 || o.rounds < 1 {
		return fmt.Errorf("--pods %d, --rounds %d: want 1 or more", o.pods, o.rounds)
	}
	if o.lab, err = filepath.Abs(o.lab); err != nil {
		return err
	}
	if err := walk.RequireNone(ctx, o.lab); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-start-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stopwatch := filepath.Join(dir, "stopwatch")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", stopwatch, "./test/bench-start/stopwatch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build stopwatch: %w: %s", err, out)
	}
	site, err := walk.SiteOf("l2")
	if err != nil {
		return err
	}
	return walk.OnFreshLab(ctx, o.lab, site, os.Stdout, func(lab *walk.Lab) error {
		results, err := measure(ctx, o, lab, stopwatch)
		if err != nil {
			return err
		}
		if err := stats.WriteJSON(o.json, results); err != nil {
			return err
		}
		fmt.Println()
		printTables(os.Stdout, results)
		fmt.Printf("\nresults in %s\n", o.json)
		return nil
	})
}
