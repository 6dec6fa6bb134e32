package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "spiderpool.dev/spiderpool"

// listed is what this test needs of `go list -json`.
type listed struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

// list returns the module's packages at or below one of the directories, or all of
// them, with the build tags that the product is built with (none).
func list(t *testing.T, directories ...string) []listed {
	t.Helper()
	packages, err := all()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(packages), func(p listed) bool {
		return len(directories) > 0 && !anyInside(strings.TrimPrefix(p.ImportPath, module+"/"), directories)
	})
}

// all lists every package of the module, once: that takes seconds.
var all = sync.OnceValues(func() ([]listed, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports,Deps,Standard", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		packages = append(packages, p)
	}
})

// inside reports whether path is the package prefix or below it.
func inside(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func anyInside(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return inside(path, prefix) })
}

// layers are the product's packages from the bottom to the top: a package
// imports packages of its own layer and of the layers below, nothing above.
// A package that is in no layer fails the test, so that it is placed on purpose.
var layers = [][]string{
	{"api"},
	{"internal/ipset", "internal/pool", "internal/lease", "internal/reclaim", "internal/netplan", "internal/wire"},
	{"internal/ipam"},
	{"internal/kube", "internal/linux", "internal/rpc", "internal/cloud"},
	{"internal/config"},
	{"internal/agent", "internal/controller", "internal/admission", "internal/cni", "internal/cli", "internal/install"},
	{"internal/archtest", "cmd", "charts", "hack", "test"},
}

func layerOf(path string) (int, bool) {
	relative := strings.TrimPrefix(path, module+"/")
	for i, packages := range layers {
		if anyInside(relative, packages) {
			return i, true
		}
	}
	return 0, false
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		from, ok := layerOf(p.ImportPath)
		if !ok {
			t.Errorf("%s is in no layer: place it in the table of this test", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if !inside(imported, module) {
				continue
			}
			if to, ok := layerOf(imported); ok && to > from {
				t.Errorf("%s imports %s, which is above it", p.ImportPath, imported)
			}
		}
	}
}

// rules forbid dependencies, also indirect ones, with the reason.
var rules = []struct {
	packages []string // below the module
	allowed  []string // import path prefixes outside the standard library, besides the packages of lower layers
	why      string
}{
	{
		[]string{"api"},
		[]string{"k8s.io/apimachinery", "k8s.io/klog", "k8s.io/utils", "sigs.k8s.io/json", "sigs.k8s.io/randfill", "sigs.k8s.io/structured-merge-diff", "sigs.k8s.io/yaml",
			"k8s.io/kube-openapi", "github.com/go-logr/logr", "github.com/fxamacker/cbor", "github.com/x448/float16", "github.com/json-iterator/go", "github.com/modern-go", "gopkg.in/inf.v0",
			"go.yaml.in/yaml", "golang.org/x/net", "golang.org/x/text", "github.com/google/gofuzz", "google.golang.org/protobuf", "github.com/gogo/protobuf"},
		"a client of the API needs apimachinery and nothing else",
	},
	{
		[]string{"internal/ipset", "internal/pool", "internal/lease", "internal/reclaim", "internal/netplan", "internal/wire"},
		[]string{"go4.org/netipx"},
		"decisions are values and functions: no I/O, clock, Kubernetes or netlink",
	},
	{
		[]string{"internal/ipam"},
		[]string{"go4.org/netipx"},
		"use cases declare the ports that they need; adapters bring the libraries",
	},
}

func TestPureLayersStayPure(t *testing.T) {
	for _, rule := range rules {
		for _, p := range list(t, rule.packages...) {
			for _, dep := range p.Deps {
				if inside(dep, module) || isStandard(dep) || anyInside(dep, rule.allowed) {
					continue
				}
				t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.why)
			}
		}
	}
}

// pureStandard are the packages that decisions must not import directly: they
// are I/O, or read the clock or chance behind the caller's back.
var impureStandard = []string{"os", "net", "net/http", "syscall", "os/exec", "io/fs", "math/rand", "crypto/rand", "log", "log/slog"}

func TestDecisionsDoNoIO(t *testing.T) {
	for _, p := range list(t, layers[1]...) {
		for _, imported := range p.Imports {
			if slices.Contains(impureStandard, imported) {
				t.Errorf("%s imports %s: a decision does no I/O", p.ImportPath, imported)
			}
		}
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func TestCNIBinariesLinkNoKubernetes(t *testing.T) {
	for _, p := range list(t, "cmd/spiderpool", "cmd/coordinator", "cmd/ifacer") {
		for _, dep := range p.Deps {
			if anyInside(dep, []string{"k8s.io", "sigs.k8s.io", module + "/api", module + "/internal/kube"}) {
				t.Errorf("%s links %s: a CNI binary is started for every interface of every pod and must stay small", p.ImportPath, dep)
			}
		}
	}
}

func TestMainsAreWiring(t *testing.T) {
	for _, p := range list(t, "cmd") {
		for _, file := range p.GoFiles {
			if lines := countLines(t, filepath.Join(p.Dir, file)); lines > 40 {
				t.Errorf("%s/%s has %d lines; a main is wiring, 40 lines at most", p.ImportPath, file, lines)
			}
		}
	}
}

func countLines(t *testing.T, path string) int {
	t.Helper()
	set := token.NewFileSet()
	if _, err := parser.ParseFile(set, path, nil, 0); err != nil {
		t.Fatal(err)
	}
	var lines int
	set.Iterate(func(f *token.File) bool { lines = f.LineCount(); return false })
	return lines
}

func TestEveryPackageOpensWithItsContract(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		if err := packageComment(p); err != nil {
			t.Error(err)
		}
	}
}

// packageComment returns an error unless exactly one file of p has a package
// comment that begins as godoc wants it.
func packageComment(p listed) error {
	var comments []string
	for _, file := range p.GoFiles {
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			return err
		}
		if parsed.Doc != nil && strings.TrimSpace(parsed.Doc.Text()) != "" {
			comments = append(comments, parsed.Doc.Text())
		}
	}
	want := "Package " + p.Name + " "
	if p.Name == "main" {
		want = "Command "
	}
	switch {
	case len(comments) == 0:
		return fmt.Errorf("%s has no package comment: say what it provides, and what it promises", p.ImportPath)
	case len(comments) > 1:
		return fmt.Errorf("%s has %d package comments: one is enough", p.ImportPath, len(comments))
	case !strings.HasPrefix(comments[0], want):
		return fmt.Errorf("%s: the package comment begins with %q, not with %q", p.ImportPath, firstWords(comments[0]), want)
	}
	return nil
}

func firstWords(s string) string {
	words := strings.Fields(s)
	return strings.Join(words[:min(3, len(words))], " ")
}

// namesThatSayNothing are package names that tell a reader nothing.
var namesThatSayNothing = []string{"util", "utils", "common", "helper", "helpers", "manager", "types", "misc", "shared"}

func TestPackagesAreNamedAfterWhatTheyProvide(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(namesThatSayNothing, p.Name) || slices.Contains(namesThatSayNothing, filepath.Base(p.Dir)) {
			t.Errorf("%s: name the package after what it provides", p.ImportPath)
		}
	}
}
