package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// parseEquivalents reads the mutants that no test can kill, because the program behaves the same: one per line,
// with file, line before, line after and the reason, separated by tabs. The result has their keys.
func parseEquivalents(text string) (map[string]bool, error) {
	list := map[string]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.Count(line, "\t") != 3 {
			return nil, fmt.Errorf("equivalent mutant %q: want file, before, after and reason, separated by tabs", line)
		}
		list[line[:strings.LastIndexByte(line, '\t')]] = true
	}
	return list, nil
}

// withoutEquivalents removes the listed mutants of a package. It also returns the entries that match no mutant:
// the code has changed, and they must go.
func withoutEquivalents(all []mutant, list map[string]bool, directory string) (rest []mutant, stale []string) {
	matched := map[string]bool{}
	for _, m := range all {
		if matched[m.key()] = list[m.key()]; !list[m.key()] {
			rest = append(rest, m)
		}
	}
	for key := range list {
		if file, _, _ := strings.Cut(key, "\t"); filepath.Dir(file) == directory && !matched[key] {
			stale = append(stale, key)
		}
	}
	return rest, stale
}
