package archtest

import (
	"strings"
	"testing"
)

// TestProgramsLinkNoTestSupport keeps fakes and suites out of the programs: packages with names ending in "test", packages below
// such a directory, and everything in test.
func TestProgramsLinkNoTestSupport(t *testing.T) {
	for _, p := range list(t, "cmd") {
		for _, dep := range p.Deps {
			path, ours := strings.CutPrefix(dep, module+"/")
			if ours && (inside(path, "test") || strings.Contains(path+"/", "test/")) {
				t.Errorf("%s links %s, which is for tests", p.ImportPath, dep)
			}
		}
	}
}
