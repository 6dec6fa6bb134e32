package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// outcome is the fate of a mutant.
type outcome string

const (
	survived outcome = "survived"
	killed   outcome = "killed"
	invalid  outcome = "does not compile"
)

// parallel is small because each run compiles and links test binaries.
const parallel = 2

// runner runs tests on mutants, with its files in a directory outside the tree.
type runner struct {
	work    string
	timeout time.Duration
}

// testAll returns the outcomes of mutants, in their order.
func (r runner) testAll(packages []string, all []mutant) ([]outcome, error) {
	outcomes := make([]outcome, len(all))
	var done atomic.Int32
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, m := range all {
		group.Go(func() error {
			overlay, err := r.overlay(m)
			if err == nil {
				outcomes[i], _, err = r.test(packages, overlay)
			}
			fmt.Fprintf(os.Stderr, "[%d/%d] %s %v\n", done.Add(1), len(all), outcomes[i], m)
			return err
		})
	}
	return outcomes, group.Wait()
}

// test runs the tests of packages with an overlay, if any, one package after the other until one fails. It
// returns the output of the last one.
func (r runner) test(packages []string, overlay string) (_ outcome, output []byte, err error) {
	for _, directory := range packages {
		args := []string{"test", "-vet=off", "-failfast", "-timeout=" + r.timeout.String(), "-overlay=" + overlay, "./" + directory}
		p, err := build.ImportDir(directory, 0)
		if err != nil && !errors.As(err, new(*build.NoGoError)) {
			return "", nil, err
		}
		if slices.Contains(append(p.TestImports, p.XTestImports...), "pgregory.net/rapid") {
			// Without these, rapid writes a file into testdata and shrinks for half a minute.
			args = append(args, "-rapid.nofailfile", "-rapid.shrinktime=0s")
		}
		output, err = exec.Command("go", args...).CombinedOutput()
		switch exit := (*exec.ExitError)(nil); {
		case err == nil:
		case !errors.As(err, &exit):
			return "", output, err
		case bytes.Contains(output, []byte("[build failed]")):
			return invalid, output, nil
		default:
			return killed, output, nil
		}
	}
	return survived, output, nil
}

// overlay writes the mutated file and the overlay for `go test`, and returns the path of the latter.
func (r runner) overlay(m mutant) (string, error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	directory, err := os.MkdirTemp(r.work, "")
	if err != nil {
		return "", err
	}
	original, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	mutated, overlay := filepath.Join(directory, "mutated.go"), filepath.Join(directory, "overlay.json")
	content, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	return overlay, errors.Join(err, os.WriteFile(mutated, m.apply(source), 0o644), os.WriteFile(overlay, content, 0o644))
}
