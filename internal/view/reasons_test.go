package view

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryCauseHasScenario compares the causes of package pool with the table in docs/reference/pod-explain.md, and with the
// scenarios. CauseMaster is the agent's alone: its scenario has a note.
func TestEveryCauseHasScenario(t *testing.T) {
	read := func(file string) string {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	found := func(file, pattern string) (all []string) {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(file), -1) {
			all = append(all, match[1])
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	causes := found("../pool/filter.go", `Cause\w+ +Cause = "([a-z-]+)"`)
	if listed := found("../../docs/reference/pod-explain.md", "(?m)^\\| `([a-z-]+)` \\|"); !slices.Equal(listed, causes) || len(causes) < 10 {
		t.Errorf("docs/reference/pod-explain.md lists %q, package pool has %q", listed, causes)
	}
	const scenarios = "testdata/explain.txtar"
	played := append(found(scenarios, "(?m)^ +cause: ([a-z-]+)$"), "master")
	if slices.Sort(played); !slices.Equal(played, causes) {
		t.Errorf("%s has the causes %q, package pool has %q", scenarios, played, causes)
	}
	if !strings.Contains(read(scenarios), "Interface eth0 has match_master_subnet") {
		t.Errorf("%s has no note about match_master_subnet", scenarios)
	}
}
