package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source creates a module directory and returns its parent.
func source(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, "hello", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestModuleIsRebuiltOnlyAfterChange(t *testing.T) {
	t.Parallel()
	files := map[string]string{"go.mod": "module hello\n\ngo 1.26.0\n", "main.go": "package main\n\nfunc main() {}\n"}
	cache, module := Cache(t.TempDir()), Module{Name: "hello", Links: []string{"alias"}}
	build := func() (dir, progress string) {
		t.Helper()
		var out strings.Builder
		dir, err := cache.Module(t.Context(), source(t, files), module, t.Output(), &out)
		if err != nil {
			t.Fatal(err)
		}
		return dir, out.String()
	}
	first, progress := build()
	if !strings.Contains(progress, "building hello") {
		t.Errorf("progress %q", progress)
	}
	if target, err := os.Readlink(filepath.Join(first, "alias")); err != nil || target != "hello" {
		t.Errorf("alias -> %q, %v", target, err)
	}
	if again, progress := build(); again != first || progress != "" {
		t.Errorf("rebuilt %s (%q), want the cached %s", again, progress, first)
	}
	files["main.go"] = "package main\n\nfunc main() { println() }\n"
	if changed, _ := build(); changed == first {
		t.Error("a changed file gave the same build")
	}
}

func TestTestsAreBuiltAndFilesCopied(t *testing.T) {
	t.Parallel()
	dir := source(t, map[string]string{
		"go.mod":        "module hello\n\ngo 1.26.0\n\nrequire other v0.0.0\n\nreplace other => ./other\n",
		"main.go":       "package main\n\nfunc main() {}\n",
		"main_test.go":  "package main\n\nimport \"testing\"\n\nfunc TestNothing(*testing.T) {}\n",
		"other/go.mod":  "module other\n",
		"other/data/it": "content",
	})
	out, err := Cache(t.TempDir()).Module(t.Context(), dir,
		Module{Name: "hello", Version: "other", Test: "hello", Files: []string{"data/it"}}, t.Output(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"hello", "hello.test"} {
		if _, err := os.Stat(filepath.Join(out, program)); err != nil {
			t.Error(err)
		}
	}
	if content, err := os.ReadFile(filepath.Join(out, "it")); err != nil || string(content) != "content" {
		t.Errorf("copied %q, %v", content, err)
	}
}

func TestFailedBuildIsNotCached(t *testing.T) {
	t.Parallel()
	dir := source(t, map[string]string{"go.mod": "module hello\n\ngo 1.26.0\n", "main.go": "package main\n"})
	cache := Cache(t.TempDir())
	for range 2 {
		if out, err := cache.Module(t.Context(), dir, Module{Name: "hello"}, t.Output(), t.Output()); err == nil {
			t.Fatalf("built %s", out)
		}
	}
}

func TestKubernetesCarriesItsModuleVersion(t *testing.T) {
	t.Parallel()
	dir := source(t, map[string]string{"go.mod": "module hello\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v1.36.3\n"})
	flags, err := Module{Name: "hello", Version: "k8s.io/kubernetes"}.flags(filepath.Join(dir, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	want := "-ldflags=-s -w -X k8s.io/component-base/version.gitMajor=1" +
		" -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitVersion=v1.36.3"
	if !slices.Contains(flags, want) {
		t.Errorf("flags are %q, want them to contain %q", flags, want)
	}
}

func TestProgramsAreLinkedByName(t *testing.T) {
	t.Parallel()
	cache, module := Cache(t.TempDir()), t.TempDir()
	if err := os.WriteFile(filepath.Join(module, "ctr"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second call finds the links
		dir, err := cache.Programs(module)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ctr")); err != nil {
			t.Error(err)
		}
	}
}

func TestLibrariesIncludeTheLoader(t *testing.T) {
	t.Parallel()
	libs, err := libraries("/bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"libc.so.6", "ld-linux-x86-64.so.2"} {
		if !slices.ContainsFunc(libs, func(path string) bool { return filepath.Base(path) == want }) {
			t.Errorf("libraries are %q, want them to contain %s", libs, want)
		}
	}
}
