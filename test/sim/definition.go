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

// Definition describes how to install an IPAM plugin on the simulated cluster. It is a
// YAML file, so you can measure other plugins by writing one. Strings marked (template)
// are text/templates with Values as data and the functions join (joins path elements)
// and json.
type Definition struct {
	// Name is the plugin's name in reports.
	Name string `json:"name"`
	// Build lists programs of this repository, each as "MODULE PACKAGE". MODULE is a
	// directory with a go.mod, relative to the repository's root. A program is named
	// after the last element of PACKAGE and goes to Values.Bin.
	Build []string `json:"build,omitempty"`
	// Binary is the path of the IPAM plugin (template).
	Binary string `json:"binary"`
	// Env is added to the plugin's environment, as KEY=VALUE (templates).
	Env []string `json:"env,omitempty"`
	// Conf is the plugin's network configuration in JSON, for its standard input (template).
	Conf string `json:"conf"`
	// Scenarios limits the plugin to the listed scenarios; empty means all.
	Scenarios []string `json:"scenarios,omitempty"`
	// CRDs are directories of CustomResourceDefinitions to install (templates).
	CRDs []string `json:"crds,omitempty"`
	// Objects is a stream of YAML documents to create before the processes start (template).
	Objects string `json:"objects,omitempty"`
	// Cluster are the cluster-wide processes, Node the processes of each node.
	Cluster []ProcessDefinition `json:"cluster,omitempty"`
	Node    []ProcessDefinition `json:"node,omitempty"`
	// Views are objects that the plugin derives from the allocations.
	Views []View `json:"views,omitempty"`
}

// ProcessDefinition describes a program of a plugin.
type ProcessDefinition struct {
	Name string `json:"name"`
	// Command is the program and its arguments (templates).
	Command []string `json:"command"`
	// Env is added to the environment, as KEY=VALUE (templates).
	Env []string `json:"env,omitempty"`
	// Files are written before the start: name below Values.Dir to content (template).
	Files map[string]string `json:"files,omitempty"`
	// Ready is "http://…", which must answer 200, or "unix:PATH", a socket that must
	// accept connections (template).
	Ready string `json:"ready,omitempty"`
}

// View follows the allocations. It has caught up once its count equals the number of
// pods or addresses.
type View struct {
	// Resource is "plural.version.group".
	Resource string `json:"resource"`
	// Field is the path of a number to sum over the objects, e.g. "status.count". Without
	// it, the objects are counted.
	Field string `json:"field,omitempty"`
	// Of is "pods" or "addresses".
	Of string `json:"of"`
}

// Pool is an address range of a scenario.
type Pool struct {
	Name    string
	Version int    // 4 or 6
	Subnet  string // CIDR
	First   string
	Last    string
	Node    string // the only node that may use it; empty for all
}

// Values are the data of templates.
type Values struct {
	Root       string // of the repository
	Bin        string // the directory of the programs in Build
	Dir        string // the directory for the files of the node or of the cluster
	Run        string // the directory of the node in memory, like /run
	Kubeconfig string
	Node       string // empty outside nodes
	Port       int    // the first of ten TCP ports for this node, or for the cluster
	CRISocket  string // path of the node's runtime socket; only the caller can listen there
	Pools      []Pool // the pools available to the node; all pools for the cluster
	IPv4, IPv6 bool   // the IP families of the scenario
	GCSeconds  int    // interval of the scan for unused addresses
	// MinLeaseAge is the minimum age of an unused address; 0 is the plugin's default.
	MinLeaseAge time.Duration
}

// LoadDefinition returns a built-in definition by name, or reads a file.
func LoadDefinition(nameOrFile string) (*Definition, error) {
	raw, err := builtin.ReadFile("plugins/" + nameOrFile + ".yaml")
	if err != nil {
		raw, err = os.ReadFile(nameOrFile)
		if err != nil {
			return nil, fmt.Errorf("plugin %q: want one of %s or a file: %w", nameOrFile, strings.Join(BuiltinDefinitions(), ", "), err)
		}
	}
	d := &Definition{}
	if err := yaml.UnmarshalStrict(raw, d); err != nil {
		return nil, fmt.Errorf("plugin %q: %w", nameOrFile, err)
	}
	if d.Name == "" || d.Binary == "" || d.Conf == "" {
		return nil, fmt.Errorf("plugin %q: name, binary and conf are required", nameOrFile)
	}
	for _, v := range d.Views {
		if v.Of != "pods" && v.Of != "addresses" {
			return nil, fmt.Errorf("plugin %q: views: of: %q: want pods or addresses", nameOrFile, v.Of)
		}
	}
	return d, nil
}

// BuiltinDefinitions returns the names of the built-in definitions.
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

// Runs reports whether the plugin takes part in the scenario.
func (d *Definition) Runs(scenario string) bool {
	return len(d.Scenarios) == 0 || slices.Contains(d.Scenarios, scenario)
}

// Plugin returns the plugin with its configuration for a node.
func (d *Definition) Plugin(v Values) (Plugin, error) {
	binary, err := render(d.Binary, v)
	if err != nil {
		return Plugin{}, err
	}
	var env []string
	for _, text := range d.Env {
		variable, err := render(text, v)
		if err != nil {
			return Plugin{}, err
		}
		env = append(env, variable)
	}
	conf, err := render(d.Conf, v)
	if err != nil {
		return Plugin{}, err
	}
	if !json.Valid([]byte(conf)) {
		return Plugin{}, fmt.Errorf("plugin %s: conf is not valid JSON: %s", d.Name, conf)
	}
	return Plugin{Binary: binary, Env: env, Conf: json.RawMessage(conf)}, nil
}

// Process writes a process's files and returns the process, not yet started, with the
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
	// names returns the names of the pools with that IP version.
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
