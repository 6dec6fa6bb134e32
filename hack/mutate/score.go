package main

import (
	"errors"
	"fmt"
	"go/build"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// result is the score of a package.
type result struct {
	target
	mutants map[outcome][]mutant // invalid ones do not count
	stale   []string             // listed, but no mutant of the package
}

func (r result) tested() int  { return len(r.mutants[killed]) + len(r.mutants[survived]) }
func (r result) percent() int { return 100 * len(r.mutants[killed]) / max(r.tested(), 1) }
func (r result) passed() bool { return r.percent() >= r.threshold && len(r.stale) == 0 }

func (r result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d mutants killed, %d %%, threshold %d %% (%d did not compile)\n",
		r.directory, len(r.mutants[killed]), r.tested(), r.percent(), r.threshold, len(r.mutants[invalid]))
	for _, m := range r.mutants[survived] {
		fmt.Fprintf(&b, "  survived %v\n", m)
	}
	for _, key := range r.stale {
		fmt.Fprintf(&b, "  equivalent.txt lists a mutant that does not exist: %s\n", key)
	}
	return b.String()
}

// score tests a sample of the mutants of a package, until n of them compile; 0 means all. The same seed and code
// give the same sample.
func (r runner) score(t target, n int, seed uint64, list map[string]bool) (result, error) {
	result := result{target: t, mutants: map[outcome][]mutant{}}
	p, err := build.ImportDir(t.directory, 0)
	if err != nil {
		return result, err
	}
	var all []mutant
	for _, name := range p.GoFiles {
		file := filepath.Join(t.directory, name)
		source, readErr := os.ReadFile(file)
		found, err := mutants(file, source)
		if err = errors.Join(readErr, err); err != nil {
			return result, err
		}
		all = append(all, found...)
	}
	all, result.stale = withoutEquivalents(all, list, t.directory)
	rand.New(rand.NewPCG(seed, uint64(len(t.directory)))).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if n == 0 {
		n = len(all)
	}
	packages := append([]string{t.directory}, t.covering...)
	if o, output, err := r.test(packages, ""); err != nil || o != survived {
		return result, fmt.Errorf("the tests fail without a mutation: %w\n%s", err, output)
	}
	for result.tested() < n && len(all) > 0 {
		next := all[:min(n-result.tested(), len(all))]
		all = all[len(next):]
		outcomes, err := r.testAll(packages, next)
		if err != nil {
			return result, err
		}
		for i, o := range outcomes {
			result.mutants[o] = append(result.mutants[o], next[i])
		}
	}
	return result, nil
}
