// Package state is the lab's directory: which files of a running lab are where,
// and what it was started with. It outlives no lab: `lab down` removes it.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	dirEnv     = "SPIDERPOOL_LAB_STATE"
	defaultDir = "/run/spiderpool-lab"
)

// Dir is the directory of one lab. Two labs can run at a time under different
// directories.
type Dir string

// Default is the directory that the environment names, else the usual one.
func Default() Dir {
	if dir := os.Getenv(dirEnv); dir != "" {
		return Dir(filepath.Clean(dir))
	}
	return defaultDir
}

// Environment is the variable that makes d the default.
func Environment(d Dir) string { return dirEnv + "=" + string(d) }

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Socket is where the machine with the nodes answers requests.
func (d Dir) Socket() string { return d.path("machine.sock") }

// ControlSocket is where the control plane answers requests.
func (d Dir) ControlSocket() string { return d.path("control-plane.sock") }

// Secrets is the directory with what a node, or "control-plane", has in its
// /etc/kubernetes.
func (d Dir) Secrets(name string) string { return d.path("secrets", name) }

// Kubeconfig is the administrator's, for use on this machine.
func (d Dir) Kubeconfig() string { return d.path("kubeconfig") }

// InnerKubeconfig is the administrator's, with the address of the API server
// inside the machine.
func (d Dir) InnerKubeconfig() string { return d.path("kubeconfig.inner") }

// Logs holds a log file for each daemon.
func (d Dir) Logs() string { return d.path("logs") }

// Program is the copy of the lab's program that the machine runs.
func (d Dir) Program() string { return d.path("lab") }

// Processor is the description of a processor for a guest kernel's nodes.
func (d Dir) Processor() string { return d.path("cpuinfo") }

// Volatile is a mount point inside the machine for all that goes with it.
func (d Dir) Volatile() string { return d.path("machine") }

// Control is the name, below the roots of the control group hierarchies, of the
// lab's group.
func (d Dir) Control() string { return filepath.Base(string(d)) }

// Config is what a lab was started with.
type Config struct {
	Topology      string `json:"topology"`
	Nodes         int    `json:"nodes"`
	Kernel        string `json:"kernel"`
	KubeProxyMode string `json:"kubeProxyMode"`
	// Programs, Plugins and Archives are the directory of all programs, that of
	// the CNI plugins, and the images; Cache is the directory they are all in.
	Cache    string   `json:"cache"`
	Programs string   `json:"programs"`
	Plugins  string   `json:"plugins"`
	Archives []string `json:"archives"`
	// Endpoint is host:port of the API server on this machine.
	Endpoint string `json:"endpoint"`
	// MachineProcess and MachineStart (clock ticks since boot) identify the
	// process that the machine lives in.
	MachineProcess int       `json:"machineProcess"`
	MachineStart   uint64    `json:"machineStart"`
	Started        time.Time `json:"started"`
	// Complete says that `lab up` ran to its end.
	Complete bool `json:"complete"`
}

// ErrNone means that there is no lab.
var ErrNone = errors.New("no lab is up; start one with `lab up`")

// Load reads the configuration of the lab that is up, or half up; without one
// the error is ErrNone.
func (d Dir) Load() (Config, error) {
	var c Config
	content, err := os.ReadFile(d.path("config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, ErrNone
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return c, fmt.Errorf("read %s: %w", d.path("config.json"), err)
	}
	return c, nil
}

// Save writes the configuration; readers see the old one or the new.
func (d Dir) Save(c Config) error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	next := d.path("config.json.next")
	if err := os.WriteFile(next, append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(next, d.path("config.json"))
}
