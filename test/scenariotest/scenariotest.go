// Package scenariotest plays txtar files that hold inputs and their outputs: as tests, and
// as examples for a reader.
package scenariotest

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// Update is the flag -update: write the outputs into the files instead of comparing them.
var Update = flag.Bool("update", false, "write the outputs into the golden files and scenarios")

// Play runs a test for each file that matches the pattern, e.g. "testdata/*.txtar". play
// returns the sections of the file with the outputs that the code gives.
func Play(t *testing.T, pattern string, play func(*testing.T, []txtar.File) []txtar.File) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := txtar.Format(archive)
			got := txtar.Format(&txtar.Archive{Comment: archive.Comment, Files: play(t, archive.Files)})
			if *Update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(got, want) {
				t.Errorf("%s differs; run with -update and read it. Got:\n%s", file, got)
			}
		})
	}
}
