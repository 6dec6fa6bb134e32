// Package scenarios runs the *.txtar files in its directory against the agent's
// use cases and the controller's decisions, with the API server in memory
// (ipamtest.FakeCluster).
//
// A file has these sections: "cluster" with Kubernetes resources in YAML,
// "script" with one command per line, "output" with the output of the commands,
// and further sections of resources for the command apply. README.md explains
// the commands. `go test ./test/scenarios -update` rewrites the outputs.
package scenarios

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the outputs of the scenarios")

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no *.txtar file in this directory")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".txtar"), func(t *testing.T) {
			t.Parallel()
			runFile(t, file)
		})
	}
}

func runFile(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	archive := txtar.Parse(raw)
	sections := map[string]*txtar.File{}
	for i := range archive.Files {
		sections[archive.Files[i].Name] = &archive.Files[i]
	}
	for _, name := range []string{"cluster", "script"} {
		if sections[name] == nil {
			t.Fatalf("%s has no section %q", file, name)
		}
	}
	got, err := play(t, sections)
	if err != nil {
		t.Fatalf("%s: %v\noutput so far:\n%s", file, err, got)
	}
	output := sections["output"]
	if *update {
		if output == nil {
			archive.Files = append(archive.Files, txtar.File{Name: "output"})
			output = &archive.Files[len(archive.Files)-1]
		}
		output.Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if output == nil {
		t.Fatalf("%s has no section \"output\"; run with -update and review the result", file)
	}
	if want := string(output.Data); got != want {
		t.Errorf("%s: the output differs (-update rewrites it)\n%s", file, difference(want, got))
	}
}

// difference shows the first differing line with its context.
func difference(want, got string) string {
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(wants) && i < len(gots) && wants[i] == gots[i] {
		i++
	}
	show := func(lines []string) string {
		return strings.Join(lines[max(0, min(i, len(lines))-3):min(len(lines), i+4)], "\n")
	}
	return fmt.Sprintf("from line %d, want:\n%s\n\ngot:\n%s", i+1, show(wants), show(gots))
}

func TestReadmeListsEveryCommand(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range commands {
		if !regexp.MustCompile("(?m)^\\| `" + name + "[ `]").Match(readme) {
			t.Errorf("README.md does not explain the command %q", name)
		}
	}
}
