package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// equivalent is a mutant that no test can kill, because the program behaves the same. Its line is not part of it:
// lines move.
type equivalent struct{ file, before, after string }

// parseEquivalents reads one mutant per line: file, line before, line after and the reason, separated by tabs.
func parseEquivalents(text string) (map[equivalent]bool, error) {
	list := map[equivalent]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 4 {
			return nil, fmt.Errorf("equivalent mutant %q: want file, before, after and reason, separated by tabs", line)
		}
		list[equivalent{fields[0], fields[1], fields[2]}] = true
	}
	return list, nil
}

// withoutEquivalents removes the listed mutants of a package. It also returns the entries that match no mutant:
// the code has changed, and they must go.
func withoutEquivalents(all []mutant, list map[equivalent]bool, directory string) (rest []mutant, stale []equivalent) {
	matched := map[equivalent]bool{}
	for _, m := range all {
		key := equivalent{m.file, m.before, m.after}
		if matched[key] = list[key]; !list[key] {
			rest = append(rest, m)
		}
	}
	for e := range list {
		if filepath.Dir(e.file) == directory && !matched[e] {
			stale = append(stale, e)
		}
	}
	return rest, stale
}
