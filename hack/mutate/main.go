// Command mutate changes one operator at a time and counts the mutants that hermetic tests kill.
//
// Each mutant is a file of a package with one change: a comparison negated or shifted, + for -, && for ||, a
// dropped !, true for false, a removed call, nil for a returned error, a constant plus one. `go test -overlay`
// builds it, so nothing is written in the tree. The package's own tests run first, then those of the packages
// that cover it. A failure, a panic or a timeout kills the mutant.
//
// We tried gremlins v0.6.0 first. It skips the conditions of switch cases as "not covered" (26 of 46 mutants of
// internal/reclaim), runs either the package's own tests or all tests of the module, and has no list of equivalent
// mutants.
//
//	go run ./hack/mutate -n 40 internal/lease internal/pool
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// target is a package with its threshold in percent and the packages whose hermetic tests cover it too.
type target struct {
	directory string
	threshold int
	covering  []string
}

var targets = []target{
	{"internal/inet", 92, []string{"internal/lease", "internal/pool"}},
	{"internal/lease", 92, []string{"internal/ipam/alloc", "internal/ipam"}},
	{"internal/pool", 92, []string{"internal/ipam"}},
	{"internal/reclaim", 92, []string{"internal/ipam", "test/scenarios"}},
	{"internal/netplan", 92, []string{"internal/cni/coordinator"}},
	{"internal/wire", 92, []string{"internal/ipam"}},
	{"internal/ipam", 85, []string{"test/scenarios"}},
	{"internal/ipam/alloc", 85, []string{"internal/ipam", "test/scenarios"}},
	{"internal/admission", 85, []string{"internal/admission/certificate"}},
}

//go:embed equivalent.txt
var equivalentText string

func main() {
	n := flag.Int("n", 40, "mutants per package; 0 for all")
	seed := flag.Uint64("seed", 1, "seed of the sample")
	timeout := flag.Duration("timeout", 60*time.Second, "time limit of one run of tests; a mutant that exceeds it is killed")
	flag.Parse()
	work, err := os.MkdirTemp("", "mutate-")
	if err == nil {
		err = errors.Join(run(*n, *seed, runner{work, *timeout}, flag.Args()), os.RemoveAll(work))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// run mutates the named packages, or all targets. A score below its threshold is an error.
func run(n int, seed uint64, r runner, directories []string) (failed error) {
	list, err := parseEquivalents(equivalentText)
	if err != nil {
		return err
	}
	for i := range directories {
		directories[i] = filepath.Clean(directories[i])
		if !slices.ContainsFunc(targets, func(t target) bool { return t.directory == directories[i] }) {
			return fmt.Errorf("%s has no threshold; add it to targets in hack/mutate/main.go", directories[i])
		}
	}
	for _, t := range targets {
		if len(directories) > 0 && !slices.Contains(directories, t.directory) {
			continue
		}
		result, err := r.score(t, n, seed, list)
		if err != nil {
			return errors.Join(failed, fmt.Errorf("%s: %w", t.directory, err))
		}
		fmt.Print(result)
		if !result.passed() {
			failed = errors.Join(failed, fmt.Errorf("%s is below its threshold, or its equivalent mutants are out of date", t.directory))
		}
	}
	return failed
}
