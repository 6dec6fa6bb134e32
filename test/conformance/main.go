// Command conformance runs Kubernetes' own end-to-end tests on a cluster whose only
// network is Spiderpool. It starts the lab on a plain layer-2 network, installs the
// chart so that every pod gets its interface from Spiderpool, runs the conformance
// tests of networks, lists the tests that did not pass with their reasons, and stops
// the lab.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"spiderpool.dev/spiderpool/test/e2e/walk"
)

const (
	topology = "l2"
	// manifests are the guide's manifests for this topology, with hostPorts and more
	// addresses.
	manifests = "test/conformance/testdata"
	// results is the directory of the tests' log and report.
	results = "dist/conformance"
	logFile = results + "/e2e.log"
	// chosen selects the tests required of every pod network.
	chosen = "sig-network && Conformance"
)

func main() {
	lab := flag.String("lab", "bin/lab", "path of the lab program")
	run := flag.String("run", ".", "regular expression that selects tests")
	keep := flag.Bool("keep", false, "keep the lab running afterwards")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := conform(ctx, *lab, *run, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func conform(ctx context.Context, binary, run string, keep bool) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	suite, err := build(ctx, binary)
	if err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, walk.Down(ctx, binary, os.Stdout)) }()
	}
	lab, err := walk.Up(ctx, binary, topology, os.Stdout)
	if err != nil {
		return err
	}
	if err := install(ctx, lab, suite); err != nil {
		return err
	}
	v, err := judged(ctx, lab, suite, run)
	if err != nil {
		return err
	}
	// The last tests' addresses may still be on their way back.
	if _, err := lab.Kubectl(ctx, "get spiderippools"); err != nil {
		return err
	}
	v.write(os.Stdout)
	fmt.Printf("The tests' log is %s\n", logFile)
	return v.err()
}

// build builds the tests and their images, and returns the directory of both.
func build(ctx context.Context, binary string) (string, error) {
	cmd := exec.CommandContext(ctx, binary, "build", "--conformance")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// install makes Spiderpool the only network of the lab's cluster, with the guide's
// steps up to the pools, and loads the tests' images.
func install(ctx context.Context, lab *walk.Lab, suite string) error {
	site, err := walk.SiteOf(topology)
	if err != nil {
		return err
	}
	site.Manifests = manifests
	if err := walk.Install(ctx, lab, site); err != nil {
		return err
	}
	fmt.Print("\n== Run the conformance tests of networks\n")
	_, err = lab.Sh(ctx, lab.Binary+" image load "+suite+"/*.tar")
	return err
}

// judged runs the tests and returns the verdict.
func judged(ctx context.Context, lab *walk.Lab, suite, run string) (v verdict, err error) {
	if err := os.MkdirAll(results, 0o755); err != nil {
		return v, err
	}
	file := filepath.Join(lab.Root, results, "report.json")
	if err := os.RemoveAll(file); err != nil {
		return v, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	args := []string{"--provider=skeleton", "--ginkgo.label-filter=" + chosen, "--ginkgo.focus=" + run, "--ginkgo.json-report=" + file,
		"--ginkgo.timeout=2h", "--ginkgo.v", "--ginkgo.no-color", "--ginkgo.silence-skips"}
	fmt.Printf("$ e2e.test %s\n", strings.Join(args, " "))
	// Run with the lab's kubectl and KUBECONFIG.
	inLab := []string{"-c", `eval "$("$0" env)" && exec "$@"`, lab.Binary, filepath.Join(suite, "e2e.test")}
	cmd := exec.CommandContext(ctx, "sh", append(inLab, args...)...)
	cmd.Stdout = io.MultiWriter(log, &progress{out: os.Stdout})
	cmd.Stderr = cmd.Stdout
	start := time.Now()
	failure := cmd.Run() // fails if a test fails; the report has the details
	report, err := os.ReadFile(file)
	if err != nil {
		return v, errors.Join(failure, err)
	}
	fmt.Printf("  after %s\n\n", time.Since(start).Round(time.Second))
	return judge(report)
}
