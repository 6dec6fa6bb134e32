package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// floor is a set of packages that import packages of the same floor and of the floors below, none above.
type floor struct {
	name     string
	packages []string // directories, with all below them but for those that another floor names
	holds    string
}

// decisions is the floor of the pure packages.
var decisions = floor{
	"Decisions",
	[]string{"internal/inet", "internal/ipset", "internal/wire", "internal/cniconf", "internal/netplan", "internal/pool", "internal/lease", "internal/reclaim",
		"internal/policy", "internal/reach", "internal/service", "internal/flow", "internal/cloud", "internal/autopool", "internal/readcache"},
	"values and decisions: no I/O, no clock, no Kubernetes",
}

// floors are the packages of the module, the lowest floor first. The longest prefix decides: internal/cloud is
// a decision, internal/cloud/aws an adapter. A package on no floor fails the test; place it on purpose.
var floors = []floor{
	{"Names", []string{"api/names"}, "the keys of annotations and labels; imports nothing"},
	{"API", []string{"api"}, "the custom resources, with their validation"},
	decisions,
	{"Use cases", []string{"internal/ipam"}, "add, delete, check and gc; they declare the ports that they need"},
	{
		"Adapters",
		[]string{"internal/kube", "internal/observe", "internal/linux", "internal/rpc", "internal/atomicfile", "internal/journal", "internal/crash",
			"internal/cloud/aws", "internal/cloud/alibaba", "internal/cloud/iaas", "internal/cloud/apibucket", "internal/cloud/cloudmetrics", "internal/cloud/cloudtest"},
		"API server, kernel, unix socket, files, clouds",
	},
	{"Models", []string{"internal/config", "internal/view"}, "the configuration, and models for reading"},
	{
		"Processes",
		[]string{"internal/process", "internal/agent", "internal/controller", "internal/admission", "internal/cni", "internal/cniinstall", "internal/install", "internal/cli", "internal/console"},
		"wiring only",
	},
	{"Programs", []string{"cmd", "charts", "hack", "test", "internal/archtest"}, "mains of at most 40 lines, the Helm chart, scripts and tests"},
}

// floorOf returns the index of the floor with the longest prefix of an import path.
func floorOf(path string) (index int, ok bool) {
	relative, longest := strings.TrimPrefix(path, module+"/"), -1
	for i, f := range floors {
		for _, prefix := range f.packages {
			if inside(relative, prefix) && len(prefix) > longest {
				index, longest, ok = i, len(prefix), true
			}
		}
	}
	return index, ok
}

func TestLongestPrefixDecidesFloor(t *testing.T) {
	for path, want := range map[string]string{
		"internal/cloud":           "Decisions",
		"internal/cloud/aws":       "Adapters",
		"internal/cloud/aws/ec2":   "Adapters",
		"internal/cloudless":       "",
		"internal/kube/agent":      "Adapters",
		"api/names":                "Names",
		"api/v2beta1":              "API",
		"internal/controller/pool": "Processes",
	} {
		got := ""
		if i, ok := floorOf(module + "/" + path); ok {
			got = floors[i].name
		}
		if got != want {
			t.Errorf("%s is on the floor %q, want %q", path, got, want)
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range list(t) {
		from, ok := floorOf(p.ImportPath)
		if !ok {
			t.Errorf("%s is on no floor: place it in the table of this test", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if !inside(imported, module) {
				continue
			}
			if to, ok := floorOf(imported); ok && to > from {
				t.Errorf("%s imports %s, a package of a higher floor", p.ImportPath, imported)
			}
		}
	}
}

const (
	tableStart = "<!-- floors: printed by go test ./internal/archtest -update -->\n"
	tableEnd   = "<!-- end of floors -->"
)

// TestContributingShowsFloors compares the table in CONTRIBUTING.md with floors; -update writes it.
func TestContributingShowsFloors(t *testing.T) {
	page := filepath.Join("..", "..", "CONTRIBUTING.md")
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), tableStart)
	got, after, closed := strings.Cut(rest, tableEnd)
	if !ok || !closed {
		t.Fatalf("%s has no lines %q and %q", page, tableStart, tableEnd)
	}
	want := floorTable(t)
	if *update {
		if err := os.WriteFile(page, []byte(before+tableStart+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != want {
		t.Errorf("%s differs from the floors; run go test ./internal/archtest -update. Want:\n%s", page, want)
	}
}

// floorTable prints the floors with those of their packages that exist.
func floorTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| floor | packages | contents |\n| --- | --- | --- |\n")
	for _, f := range floors {
		existing := slices.DeleteFunc(slices.Clone(f.packages), func(name string) bool { return len(list(t, name)) == 0 })
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", f.name, strings.Join(existing, "`, `"), f.holds)
	}
	return b.String()
}
