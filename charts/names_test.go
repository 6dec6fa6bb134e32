package charts

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// elsewhere matches registries and chart repositories of another product with our name.
var elsewhere = regexp.MustCompile(`(?i)(ghcr|quay|docker)\.io/(spider|daocloud)|daocloud\.io|spidernet-io\.github\.io|spidernet-io/spiderpool/|helm repo add|spiderpool/spiderpool --`)

// No registry has our images and chart, so a name in the tree would install another product.
func TestTreeNamesNoOtherRegistry(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist"):
			return filepath.SkipDir
		case !d.Type().IsRegular() || path == "../charts/names_test.go" || strings.HasSuffix(path, ".sum"):
			return nil
		}
		for i, line := range strings.Split(read(t, path), "\n") {
			if name := elsewhere.FindString(line); name != "" {
				t.Errorf("%s:%d: %s", path, i+1, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The guides show the commands that the end-to-end tests run.
func TestGuidesShowTestedInstallation(t *testing.T) {
	_, command, _ := strings.Cut(read(t, "../test/e2e/testdata/aws/00-install.sh"), "\n")
	for _, page := range []string{"../docs/guides/aws.md", "../docs/guides/aws.zh.md"} {
		if !strings.Contains(read(t, page), "make images chart\nmake load TO=containerd:root@172.31.22.228,root@172.31.32.18\n"+command) {
			t.Errorf("%s does not show these commands:\n%s", page, command)
		}
	}
}

// The programs stamp the custom resource definitions with their release.
func TestProgramsHaveReleaseOfChart(t *testing.T) {
	release := regexp.MustCompile(`(?m)^appVersion: (\S+)$`).FindStringSubmatch(read(t, "spiderpool/Chart.yaml"))
	if release == nil || !regexp.MustCompile(`(?m)^VERSION +\?= `+regexp.QuoteMeta(release[1])+`$`).MatchString(read(t, "../Makefile")) {
		t.Errorf("VERSION in the Makefile is not the appVersion of the chart, %q", release)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
