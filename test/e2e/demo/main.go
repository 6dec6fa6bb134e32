// Command demo starts the lab, walks through the AWS guide on it, and leaves the cluster
// running for you. Its walks zero-touch and on-demand are the chapters of these names.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

func main() {
	lab := flag.String("lab", "bin/lab", "path of the lab program")
	topology := flag.String("topology", "aws", "topology of the lab: aws or l2")
	walkName := flag.String("walk", "guide", "walk through the guide, or its chapter zero-touch or on-demand")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *lab, *topology, *walkName); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\nThe lab is still up: `eval \"$(%s env)\"` to inspect it, `make lab-down` to stop it.\n", err, *lab)
		os.Exit(1)
	}
}

type lap struct {
	title string
	took  time.Duration
}

// demoPods is the number of pods in the walk on-demand. Each node needs two prefixes for them.
const demoPods = 40

// walks are the walks by name.
var walks = map[string]func(*walk.Lab, walk.Site) []walk.Step{
	"guide":      walk.Guide,
	"zero-touch": walk.ZeroTouch,
	"on-demand":  func(lab *walk.Lab, site walk.Site) []walk.Step { return walk.Manage(lab, site, demoPods) },
}

func run(ctx context.Context, binary, topology, walkName string) error {
	start := time.Now()
	site, err := walk.SiteOf(topology)
	if err != nil {
		return err
	}
	steps := walks[walkName]
	switch {
	case steps == nil:
		return fmt.Errorf("walk %q: want %s", walkName, strings.Join(slices.Sorted(maps.Keys(walks)), " or "))
	case walkName != "guide" && !site.Routed:
		return fmt.Errorf("walk %s needs a cloud: topology aws, not %s", walkName, topology)
	}
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	laps := []lap{}
	timed := func(title string, do func() error) error {
		fmt.Printf("\n== %s\n", title)
		began := time.Now()
		err := do()
		laps = append(laps, lap{title, time.Since(began)})
		return err
	}
	var cluster *walk.Lab
	err = timed("Start the lab", func() (err error) {
		cluster, err = walk.Up(ctx, binary, topology, os.Stdout)
		return err
	})
	if err != nil {
		return err
	}
	for _, step := range steps(cluster, site) {
		if !step.Demo {
			continue
		}
		if err := timed(step.Title, func() error { return step.Run(ctx) }); err != nil {
			return fmt.Errorf("%s: %w", step.Title, err)
		}
	}
	summarize(laps, time.Since(start))
	return nil
}

func summarize(laps []lap, total time.Duration) {
	fmt.Printf("\n== Done in %s\n\n", total.Round(time.Second))
	for _, l := range laps {
		fmt.Printf("  %7s  %s\n", l.took.Round(100*time.Millisecond), l.title)
	}
	fmt.Print(`
Try next:
  eval "$(bin/lab env)"
  kubectl get pods -o wide
  kubectl get spiderippools
  kubectl get spiderendpoints
  bin/lab exec internet -- ip address
  make lab-down
`)
}
