// Command datapath generates docs/reference/datapath.md from the results of the
// kernel tests in internal/cni/coordinator. hack/kernel-uml.sh calls it:
//
//	go run ./hack/datapath results.tsv > docs/reference/datapath.md
//
// A line of a results file has seven fields separated by tabs: kind of interface,
// variant, IP version, protocol, path, outcome, and the kind of source that the server
// saw ("" if unknown). A combination without a line was not measured and appears as "–".
package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
)

// column is a measured combination, e.g. {"ipvlan", "nftables"}.
type column struct{ kind, variant string }

type table struct {
	paths   []string // in the order of the tests
	columns []column
	// outcomes maps path → column → IP version → outcome → protocols.
	outcomes map[string]map[column]map[string]map[string][]string
	// sources maps path → column → sources.
	sources map[string]map[column][]string
}

// versions lists the IP versions of a results file, in the order of a cell.
var versions = []string{"ip", "ip6"}

func main() {
	if err := run(os.Args[1:]); err != nil {
		slog.Error("make the table", "err", err)
		os.Exit(1)
	}
}

func run(files []string) error {
	t := table{outcomes: map[string]map[column]map[string]map[string][]string{}, sources: map[string]map[column][]string{}}
	for _, file := range files {
		if err := t.read(file); err != nil {
			return err
		}
	}
	if len(t.paths) == 0 {
		return fmt.Errorf("no results in %v", files)
	}
	t.write()
	return nil
}

func (t *table) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		w := strings.Split(lines.Text(), "\t")
		if len(w) != 7 {
			return fmt.Errorf("%s:%d: has %d columns instead of 7", file, n, len(w))
		}
		c, version, protocol, path, outcome := column{w[0], w[1]}, w[2], strings.ToUpper(w[3]), w[4], w[5]
		if !slices.Contains(versions, version) {
			return fmt.Errorf("%s:%d: IP version %q, want one of %v", file, n, version, versions)
		}
		if !slices.Contains(t.columns, c) {
			t.columns = append(t.columns, c)
		}
		if t.outcomes[path] == nil {
			t.paths = append(t.paths, path)
			t.outcomes[path] = map[column]map[string]map[string][]string{}
			t.sources[path] = map[column][]string{}
		}
		if source := w[6]; source != "" && !slices.Contains(t.sources[path][c], source) {
			t.sources[path][c] = append(t.sources[path][c], source)
		}
		if t.outcomes[path][c] == nil {
			t.outcomes[path][c] = map[string]map[string][]string{}
		}
		of := t.outcomes[path][c][version]
		if of == nil {
			of = map[string][]string{}
			t.outcomes[path][c][version] = of
		}
		if !slices.Contains(of[outcome], protocol) {
			of[outcome] = append(of[outcome], protocol)
		}
	}
	return lines.Err()
}

func (t *table) write() {
	fmt.Print(`# Datapath test results

Do not edit. "make datapath" generates this page from the kernel tests in
internal/cni/coordinator, run on the lab's guest kernel. "make kernel-uml" fails
if the page differs from its own results. A cell lists the working protocols, first
for IPv4, then for IPv6: the reply and the source address seen by the server were
the expected ones. "from pod" means that the server saw the address of a pod. In the
columns "eBPF", the programs of service.mode ebpf translate the connections of pods, and
kube-proxy's rules all others. "–" means not measured.

`)
	for _, section := range sections {
		if columns := t.columnsOf(section.prefix); len(columns) > 0 {
			fmt.Printf("## %s\n\n", section.title)
			t.writeSection(columns)
		}
	}
}

// sections lists the tables. A column belongs to the section whose prefix its kind
// starts with; "" takes the rest.
var sections = []struct{ title, prefix string }{
	{"One underlay interface", ""},
	{"Two underlay interfaces", "two "},
	{"Three underlay interfaces", "three "},
	{"An overlay interface and an underlay interface", "overlay "},
}

// columnsOf returns the columns of a section.
func (t *table) columnsOf(prefix string) []column {
	var out []column
	for _, c := range t.columns {
		own := ""
		for _, section := range sections {
			if strings.HasPrefix(c.kind, section.prefix) {
				own = section.prefix
			}
		}
		if own == prefix {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b column) int { return strings.Compare(a.kind+a.variant, b.kind+b.variant) })
	return out
}

func (t *table) writeSection(columns []column) {
	fmt.Print("| path |")
	for _, c := range columns {
		fmt.Printf(" %s, %s |", c.kind, c.variant)
	}
	fmt.Print("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, p := range t.paths {
		if !slices.ContainsFunc(columns, func(c column) bool { return t.outcomes[p][c] != nil }) {
			continue
		}
		fmt.Printf("| %s |", p)
		for _, c := range columns {
			fmt.Printf(" %s |", cell(t.outcomes[p][c], t.sources[p][c]))
		}
		fmt.Println()
	}
	fmt.Println()
}

// cell formats the outcomes for IPv4 and IPv6, and the sources.
func cell(outcomes map[string]map[string][]string, sources []string) string {
	if len(outcomes) == 0 {
		return "–"
	}
	var parts []string
	for _, version := range versions {
		parts = append(parts, part(outcomes[version]))
	}
	text := strings.Join(parts, " · ")
	if len(sources) > 0 {
		text += ", from " + strings.Join(sources, " or ")
	}
	return text
}

func part(of map[string][]string) string {
	for _, protocols := range of {
		slices.Sort(protocols)
	}
	switch {
	case len(of) == 0:
		return "–"
	case len(of["fails"]) > 0:
		return "**fails** " + strings.Join(of["fails"], " ")
	default:
		return strings.Join(of["works"], " ")
	}
}
