package archtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// starts are the calls that start a program, with the package that makes them for all programs.
var starts = map[string]string{
	"slog.New(":                           "internal/process",
	"signal.NotifyContext(":               "internal/process",
	"rest.InClusterConfig(":               "internal/kube/restconfig",
	"clientcmd.BuildConfigFromFlags(":     "internal/kube/restconfig",
	"clientcmd.NewNonInteractiveDeferred": "internal/kube/restconfig",
}

func TestProgramsStartInOneWay(t *testing.T) {
	for _, p := range list(t, "cmd", "internal") {
		directory := strings.TrimPrefix(p.ImportPath, module+"/")
		// Plugins log to a file, and packages for tests do not start programs.
		if directory == "internal/cni/plugin" || strings.HasSuffix(p.Name, "test") {
			continue
		}
		for _, file := range p.GoFiles {
			source, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for call, owner := range starts {
				if directory != owner && strings.Contains(string(source), call) {
					t.Errorf("%s/%s calls %s: let %s do it", p.ImportPath, file, call, owner)
				}
			}
		}
	}
}
