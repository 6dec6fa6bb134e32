package charts

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// update has no build tag, so that "go test ./... -update" works with any set of tags.
var update = flag.Bool("update", false, "write the golden files")

// golden compares got with the golden file, or writes the file if -update is set.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs from the rendered chart; if this is intended, run make update.\n%s", file, firstDifference(string(want), string(got)))
	}
}

// firstDifference shows the first differing line of two texts.
func firstDifference(want, got string) string {
	wants, gots := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wants), len(gots)) {
		w, g := "(end)", "(end)"
		if i < len(wants) {
			w = wants[i]
		}
		if i < len(gots) {
			g = gots[i]
		}
		if w != g {
			return fmt.Sprintf("line %d: want %q, got %q", i+1, w, g)
		}
	}
	return ""
}
