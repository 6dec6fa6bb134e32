// Command bench-net measures the network between two pods on different nodes of the
// lab. It compares three networks: the nodes' own, Spiderpool's underlay, and a bridge
// with address translation. Pods use such a bridge if the network does not know
// their addresses.
//
// It starts one lab per topology in turn: l2 for macvlan, aws for ipvlan. If this
// machine's kernel has no ipvlan, aws runs in User Mode Linux. Compare only figures
// from the same lab.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"spiderpool.dev/spiderpool/test/e2e/walk"
	"spiderpool.dev/spiderpool/test/stats"
)

// options are the command line flags.
type options struct {
	lab        string
	topologies string
	rounds     int
	seconds    int
	json       string
}

func main() {
	var o options
	flag.StringVar(&o.lab, "lab", "bin/lab", "path of the lab program")
	flag.StringVar(&o.topologies, "topologies", "l2,aws", "comma-separated topologies of the lab")
	flag.IntVar(&o.rounds, "rounds", 5, "measurements per network, in turn; the report has the medians")
	flag.IntVar(&o.seconds, "seconds", 5, "duration of each measurement in seconds")
	flag.StringVar(&o.json, "json", "bench-net.json", "file for the results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-net:", err)
		os.Exit(1)
	}
}

func (o *options) validate() error {
	for name, n := range map[string]int{"rounds": o.rounds, "seconds": o.seconds} {
		if n < 1 {
			return fmt.Errorf("--%s %d: want 1 or more", name, n)
		}
	}
	return nil
}

func run(ctx context.Context, o *options) error {
	if err := o.validate(); err != nil {
		return err
	}
	var sites []walk.Site
	for topology := range strings.SplitSeq(o.topologies, ",") {
		site, err := walk.SiteOf(topology)
		if err != nil {
			return fmt.Errorf("--topologies: %w", err)
		}
		sites = append(sites, site)
	}
	var err error
	if o.lab, err = filepath.Abs(o.lab); err != nil {
		return err
	}
	if err := walk.RequireNone(ctx, o.lab); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-net-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	archive, err := buildImage(ctx, o.lab, dir)
	if err != nil {
		return err
	}
	var results []result
	for _, site := range sites {
		measured, err := measureOn(ctx, o, site, archive)
		if err != nil {
			return fmt.Errorf("topology %s: %w", site.Name, err)
		}
		results = append(results, measured...)
	}
	if err := stats.WriteJSON(o.json, results); err != nil {
		return err
	}
	fmt.Printf("\nMedians of %d rounds, %d s per measurement\n\n", o.rounds, o.seconds)
	printTable(os.Stdout, results)
	fmt.Printf("\nresults in %s\n", o.json)
	return nil
}

// measureOn measures on a new lab.
func measureOn(ctx context.Context, o *options, site walk.Site, archive string) (measured []result, err error) {
	fmt.Printf("\n== Start the lab %s\n", site.Name)
	err = walk.OnFreshLab(ctx, o.lab, site, os.Stdout, func(lab *walk.Lab) (err error) {
		measured, err = measure(ctx, o, lab, site, archive)
		return err
	})
	return measured, err
}

// buildImage builds the pods' image from pingpong and Debian's iperf3, and returns its
// archive.
func buildImage(ctx context.Context, lab, dir string) (string, error) {
	pingpong := filepath.Join(dir, "pingpong")
	build := exec.CommandContext(ctx, "go", "build", "-o", pingpong, "./test/bench-net/pingpong")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pingpong: %w: %s", err, out)
	}
	iperf, err := exec.LookPath("iperf3")
	if err != nil {
		return "", fmt.Errorf("%w: `make lab-tools` installs it", err)
	}
	libraries, err := exec.CommandContext(ctx, "ldd", iperf).Output()
	if err != nil {
		return "", fmt.Errorf("ldd %s: %w", iperf, err)
	}
	archive := filepath.Join(dir, "image.tar")
	args := []string{"image", "build", "--tag", "bench-net:latest", "-o", archive, "--add", pingpong + ":/usr/bin/pingpong:755", "--add", iperf + ":/usr/bin/iperf3"}
	for word := range strings.FieldsSeq(string(libraries)) {
		if strings.HasPrefix(word, "/") {
			args = append(args, "--add", word+":"+word)
		}
	}
	build = exec.CommandContext(ctx, lab, args...)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("lab image build: %w", err)
	}
	return archive, nil
}
