// Package scenarios runs the *.txtar files of its directory: pools, pods and
// operations on the one hand, addresses, errors, events and endpoints on the other.
//
// A file has the sections "cluster" (resources in YAML), "script" (one command a
// line, see the table in command_test.go), further resources that the script
// applies by name, and "output": what the commands say. `go test ./test/scenarios
// -update` writes the outputs anew. The use cases are the agent's, the controller
// has its decisions and the status of pools, the API server is in memory
// (ipamtest.World).
package scenarios

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the outputs of the scenarios")

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no scenarios")
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
		t.Fatalf("%s has no section \"output\"; run with -update and read what it writes", file)
	}
	if want := string(output.Data); got != want {
		t.Errorf("%s: the output differs (-update writes it anew)\n%s", file, difference(want, got))
	}
}

// difference shows the first line that differs and what surrounds it.
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
