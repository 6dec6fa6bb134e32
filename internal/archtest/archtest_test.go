package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// rules forbid dependencies, also indirect ones, with the reason.
var rules = []struct {
	packages []string // below the module
	allowed  []string // import path prefixes outside the standard library, besides the packages of lower layers
	why      string
}{
	{
		[]string{"api/names"},
		nil,
		"every package may import the keys",
	},
	{
		[]string{"api"},
		[]string{"k8s.io/apimachinery", "k8s.io/klog", "k8s.io/utils", "sigs.k8s.io/json", "sigs.k8s.io/randfill", "sigs.k8s.io/structured-merge-diff", "sigs.k8s.io/yaml",
			"k8s.io/kube-openapi", "github.com/go-logr/logr", "github.com/fxamacker/cbor", "github.com/x448/float16", "github.com/json-iterator/go", "github.com/modern-go", "gopkg.in/inf.v0",
			"go.yaml.in/yaml", "golang.org/x/net", "golang.org/x/text", "github.com/google/gofuzz", "google.golang.org/protobuf", "github.com/gogo/protobuf"},
		"a client of the API needs apimachinery and nothing else",
	},
	{
		decisions.packages,
		[]string{"go4.org/netipx", "golang.org/x/sync/singleflight"},
		"decisions are values and functions: no I/O, clock, Kubernetes or netlink",
	},
	{
		[]string{"internal/ipam"},
		[]string{"go4.org/netipx", "golang.org/x/sync/singleflight"},
		"use cases declare the ports that they need; adapters bring the libraries",
	},
}

// onFloor returns the packages at or below directories, but for those that another floor names: internal/cloud is pure,
// internal/cloud/aws is an adapter.
func onFloor(t *testing.T, directories []string) []listed {
	t.Helper()
	want, _ := floorOf(module + "/" + directories[0])
	return slices.DeleteFunc(list(t, directories...), func(p listed) bool {
		got, _ := floorOf(p.ImportPath)
		return got != want
	})
}

func TestPureLayersStayPure(t *testing.T) {
	for _, rule := range rules {
		for _, p := range onFloor(t, rule.packages) {
			for _, dep := range p.Deps {
				if inside(dep, module) || isStandard(dep) || anyInside(dep, rule.allowed) {
					continue
				}
				t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.why)
			}
		}
	}
}

// TestAllocatorKnowsLeasesOnly keeps CNI, the wire and pools out of the allocator. The use cases call it, and nothing
// goes the other way.
func TestAllocatorKnowsLeasesOnly(t *testing.T) {
	allowed := []string{module + "/internal/inet", module + "/internal/lease"}
	for _, p := range list(t, "internal/ipam/alloc") {
		for _, dep := range p.Deps {
			if inside(dep, module) && !anyInside(dep, allowed) {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// impureStandard are the packages that decisions must not import directly: they do I/O, or draw random numbers.
var impureStandard = []string{"os", "net/http", "syscall", "os/exec", "io/fs", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog"}

// impureNames are prefixes of names that decisions must not use, by package. The rest of these packages is pure,
// for example net.ParseMAC and time.Duration.
var impureNames = map[string][]string{
	"net":  {"Dial", "Listen", "Interface", "Lookup", "Resolve"},
	"time": {"Now", "Since", "Until", "Sleep", "After", "Tick", "NewTimer", "NewTicker"},
}

func TestDecisionsDoNoIO(t *testing.T) {
	for _, p := range onFloor(t, decisions.packages) {
		for _, imported := range p.Imports {
			if slices.Contains(impureStandard, imported) {
				t.Errorf("%s imports %s: a decision does no I/O", p.ImportPath, imported)
			}
		}
		for _, file := range p.GoFiles {
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, use := range impureUses(parsed) {
				t.Errorf("%s uses %s.%s: a decision does no I/O and gets the time from its caller", set.Position(use.Pos()), use.X, use.Sel)
			}
		}
	}
}

// impureUses returns the uses of impureNames in a file.
func impureUses(file *ast.File) (uses []*ast.SelectorExpr) {
	prefixes := map[string][]string{} // by the name of the package in the file
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		name := path
		if spec.Name != nil {
			name = spec.Name.Name
		}
		prefixes[name] = impureNames[path]
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if name, ok := selector.X.(*ast.Ident); ok && slices.ContainsFunc(prefixes[name.Name], func(prefix string) bool {
				return strings.HasPrefix(selector.Sel.Name, prefix)
			}) {
				uses = append(uses, selector)
			}
		}
		return true
	})
	return uses
}

func TestImpureUsesAreFound(t *testing.T) {
	const source = `package p
import (clock "time"; "net")
var _, _ = net.ParseMAC("")
var _ net.Dialer
var _ = clock.Now().Add(clock.Second)`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, use := range impureUses(file) {
		got = append(got, fmt.Sprint(use.X, ".", use.Sel))
	}
	if want := []string{"net.Dialer", "clock.Now"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func TestCNIBinariesLinkNoKubernetes(t *testing.T) {
	for _, p := range list(t, "cmd/spiderpool", "cmd/coordinator", "cmd/ifacer") {
		for _, dep := range p.Deps {
			if anyInside(dep, []string{"k8s.io", "sigs.k8s.io", module + "/api", module + "/internal/kube", "github.com/cilium"}) {
				t.Errorf("%s links %s: a CNI binary is started for every interface of every pod and must stay small", p.ImportPath, dep)
			}
		}
	}
}

// TestCommandLineBuildsElsewhere: spiderpoolctl also runs on macOS and Windows, so only files for Linux may use its kernel.
func TestCommandLineBuildsElsewhere(t *testing.T) {
	for _, system := range []string{"darwin", "windows"} {
		cmd := exec.Command("go", "list", "-deps", module+"/cmd/spiderpoolctl")
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", system, err, out)
		}
		for dep := range strings.Lines(string(out)) {
			if anyInside(strings.TrimSpace(dep), []string{module + "/internal/linux", module + "/internal/agent", "github.com/vishvananda", "github.com/google/nftables", "github.com/cilium/ebpf"}) {
				t.Errorf("spiderpoolctl for %s links %s: move its use into internal/cli/kernel_linux.go", system, strings.TrimSpace(dep))
			}
		}
	}
}

func TestAgentLinksNoControllerRuntime(t *testing.T) {
	for _, p := range list(t, "cmd/spiderpool-agent") {
		for _, dep := range p.Deps {
			if inside(dep, "sigs.k8s.io/controller-runtime") {
				t.Errorf("%s links %s: with the types of all of Kubernetes it costs every node 25 MiB", p.ImportPath, dep)
			}
		}
	}
}

// TestCloudsStayInTheController keeps the SDKs of clouds, and the credentials that they look for, out of every program
// but the controller.
func TestCloudsStayInTheController(t *testing.T) {
	clouds := []string{
		"github.com/aws", "github.com/alibabacloud-go", "github.com/aliyun",
		module + "/internal/cloud/aws", module + "/internal/cloud/alibaba", module + "/internal/cloud/iaas",
	}
	for _, p := range list(t, "cmd") {
		if p.ImportPath == module+"/cmd/spiderpool-controller" {
			continue
		}
		for _, dep := range p.Deps {
			if anyInside(dep, clouds) {
				t.Errorf("%s links %s: only the controller talks to a cloud", p.ImportPath, dep)
			}
		}
	}
}

func TestMainsAreWiring(t *testing.T) {
	for _, p := range list(t, "cmd") {
		for _, file := range p.GoFiles {
			if lines := parse(t, filepath.Join(p.Dir, file)).lines; lines > 40 {
				t.Errorf("%s/%s has %d lines; a main is wiring, 40 lines at most", p.ImportPath, file, lines)
			}
		}
	}
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
