package sim

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"sigs.k8s.io/yaml"
)

//go:embed plugins/*.yaml
var builtin embed.FS

// Definition says how an IPAM plugin is installed on the simulated cluster. It is
// a YAML file, so that plugins other than ours can be measured by writing one.
// Strings marked as templates are text/templates of Values, with the functions
// join (joins path elements) and json.
type Definition struct {
	// Name of the plugin in reports.
	Name string `json:"name"`
	// Build lists programs that are built from this repository, as "MODULE PACKAGE",
	// where MODULE is a directory with a go.mod, below the repository's root. The
	// programs are called as the last element of PACKAGE and found in Values.Bin.
	Build []string `json:"build,omitempty"`
	// Binary is the path of the IPAM plugin (template).
	Binary string `json:"binary"`
	// Conf is the network configuration that the plugin gets on standard input: JSON (template).
	Conf string `json:"conf"`
	// Scenarios limits the plugin to those that mean something for it; empty is all.
	Scenarios []string `json:"scenarios,omitempty"`
	// CRDs are directories of CustomResourceDefinitions to install (templates).
	CRDs []string `json:"crds,omitempty"`
	// Objects is a stream of YAML documents to create before the processes start (template).
	Objects string `json:"objects,omitempty"`
	// Cluster are the processes of which the cluster has one, Node those that every node has.
	Cluster []ProcessDefinition `json:"cluster,omitempty"`
	Node    []ProcessDefinition `json:"node,omitempty"`
	// Views are what the plugin keeps for its users besides the allocation itself.
	Views []View `json:"views,omitempty"`
}

// ProcessDefinition is a program that a plugin needs.
type ProcessDefinition struct {
	Name string `json:"name"`
	// Command is the program and its arguments (templates).
	Command []string `json:"command"`
	// Env is added to the environment, as KEY=value (templates).
	Env []string `json:"env,omitempty"`
	// Files are written before the start; name below Values.Dir → content (template).
	Files map[string]string `json:"files,omitempty"`
	// Ready is "http://…", which answers 200 when the process is ready, or
	// "unix:PATH", a socket that then accepts connections (template).
	Ready string `json:"ready,omitempty"`
}

// View is something that follows the allocations: it is caught up when it counts
// as many pods, or addresses, as there are.
type View struct {
	// Resource is "plural.version.group".
	Resource string `json:"resource"`
	// Field is the path of a number to add up over the objects, as "status.count";
	// without it the objects themselves are counted.
	Field string `json:"field,omitempty"`
	// Of is "pods" or "addresses".
	Of string `json:"of"`
}

// Pool is a range of addresses that a scenario wants.
type Pool struct {
	Name    string
	Version int    // 4 or 6
	Subnet  string // CIDR
	First   string
	Last    string
	Node    string // the one node that may use it; empty for all
}

// Values are what templates are made of.
type Values struct {
	Root       string // of the repository
	Bin        string // where the programs of Build are
	Dir        string // of the node's, or the cluster's, files
	Kubeconfig string
	Node       string // empty outside nodes
	Port       int    // the first of ten TCP ports for this node, or for the cluster
	CRISocket  string // of the node's runtime, as a path; nothing listens there unless the caller does
	Pools      []Pool // those that the node may use, or all
	IPv4, IPv6 bool   // the families that the scenario uses
	GCSeconds  int    // how often everything is looked through for addresses that nobody uses
	// MinLeaseAge is from which age on addresses may be found unused; 0 is the plugin's default.
	MinLeaseAge time.Duration
}

// LoadDefinition returns a built-in definition by name, or reads a file.
func LoadDefinition(nameOrFile string) (*Definition, error) {
	raw, err := builtin.ReadFile("plugins/" + nameOrFile + ".yaml")
	if err != nil {
		raw, err = os.ReadFile(nameOrFile)
		if err != nil {
			return nil, fmt.Errorf("plugin %q is neither one of %s nor a file: %w", nameOrFile, strings.Join(BuiltinDefinitions(), ", "), err)
		}
	}
	d := &Definition{}
	if err := yaml.UnmarshalStrict(raw, d); err != nil {
		return nil, fmt.Errorf("plugin %q: %w", nameOrFile, err)
	}
	if d.Name == "" || d.Binary == "" || d.Conf == "" {
		return nil, fmt.Errorf("plugin %q: name, binary and conf are needed", nameOrFile)
	}
	for _, v := range d.Views {
		if v.Of != "pods" && v.Of != "addresses" {
			return nil, fmt.Errorf("plugin %q: views: of: %q is neither pods nor addresses", nameOrFile, v.Of)
		}
	}
	return d, nil
}

// BuiltinDefinitions are the names that LoadDefinition knows.
func BuiltinDefinitions() []string {
	files, err := fs.Glob(builtin, "plugins/*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Runs reports whether the scenario means something for the plugin.
func (d *Definition) Runs(scenario string) bool {
	return len(d.Scenarios) == 0 || slices.Contains(d.Scenarios, scenario)
}

// Plugin returns the plugin with its configuration on a node.
func (d *Definition) Plugin(v Values) (Plugin, error) {
	binary, err := render(d.Binary, v)
	if err != nil {
		return Plugin{}, err
	}
	conf, err := render(d.Conf, v)
	if err != nil {
		return Plugin{}, err
	}
	if !json.Valid([]byte(conf)) {
		return Plugin{}, fmt.Errorf("plugin %s: conf is not JSON: %s", d.Name, conf)
	}
	return Plugin{Binary: binary, Conf: json.RawMessage(conf)}, nil
}

// Process returns a process ready to be started, its files written, and the
// rendered Ready.
func (p ProcessDefinition) Process(v Values) (*Process, string, error) {
	for name, text := range p.Files {
		content, err := render(text, v)
		if err != nil {
			return nil, "", err
		}
		path := filepath.Join(v.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, "", err
		}
	}
	name := p.Name
	if v.Node != "" {
		name += " of " + v.Node
	}
	out := &Process{Name: name, Dir: v.Dir, Log: filepath.Join(v.Dir, p.Name+".log")}
	for target, texts := range map[*[]string][]string{&out.Argv: p.Command, &out.Env: p.Env} {
		for _, text := range texts {
			rendered, err := render(text, v)
			if err != nil {
				return nil, "", err
			}
			*target = append(*target, rendered)
		}
	}
	ready, err := render(p.Ready, v)
	return out, ready, err
}

var functions = template.FuncMap{
	"join": filepath.Join,
	"add":  func(a, b int) int { return a + b },
	"json": func(v any) (string, error) {
		out, err := json.Marshal(v)
		return string(out), err
	},
	// names returns the names of the pools of one IP version.
	"names": func(pools []Pool, version int) []string {
		names := []string{}
		for _, p := range pools {
			if p.Version == version {
				names = append(names, p.Name)
			}
		}
		return names
	},
}

func render(text string, v Values) (string, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return "", fmt.Errorf("template %.80q: %w", text, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, v); err != nil {
		return "", fmt.Errorf("template %.80q: %w", text, err)
	}
	return out.String(), nil
}
