// Package state knows the lab's directory: the paths of its files and the
// configuration of the running lab. `lab down` removes the directory.
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

// Dir is the directory of one lab. Two labs can run at once in different
// directories.
type Dir string

// Default is the directory in the environment variable, or /run/spiderpool-lab.
func Default() Dir {
	if dir := os.Getenv(dirEnv); dir != "" {
		return Dir(filepath.Clean(dir))
	}
	return defaultDir
}

// Environment returns the variable that makes d the default, as KEY=VALUE.
func Environment(d Dir) string { return dirEnv + "=" + string(d) }

func (d Dir) path(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Socket is the socket of the machine with the nodes.
func (d Dir) Socket() string { return d.path("machine.sock") }

// ControlSocket is the socket of the control plane.
func (d Dir) ControlSocket() string { return d.path("control-plane.sock") }

// Secrets is the directory of the /etc/kubernetes of a node or of
// "control-plane".
func (d Dir) Secrets(name string) string { return d.path("secrets", name) }

// Kubeconfig is the administrator's kubeconfig for this machine.
func (d Dir) Kubeconfig() string { return d.path("kubeconfig") }

// InnerKubeconfig is the administrator's kubeconfig with the API server's address
// inside the machine.
func (d Dir) InnerKubeconfig() string { return d.path("kubeconfig.inner") }

// Logs holds a log file for each daemon.
func (d Dir) Logs() string { return d.path("logs") }

// Program is the machine's copy of the lab's program.
func (d Dir) Program() string { return d.path("lab") }

// Processor is the /proc/cpuinfo of nodes on a guest kernel.
func (d Dir) Processor() string { return d.path("cpuinfo") }

// Volatile is a mount point inside the machine. Its contents disappear with the machine.
func (d Dir) Volatile() string { return d.path("machine") }

// Control is the name of the lab's control group, relative to the root of each
// hierarchy.
func (d Dir) Control() string { return filepath.Base(string(d)) }

// Config describes a started lab.
type Config struct {
	Topology      string `json:"topology"`
	Nodes         int    `json:"nodes"`
	Kernel        string `json:"kernel"`
	KubeProxyMode string `json:"kubeProxyMode"`
	// Programs, Plugins and Archives are the directory of all programs, the directory
	// of the CNI plugins, and the image archives. All are inside Cache.
	Cache    string   `json:"cache"`
	Programs string   `json:"programs"`
	Plugins  string   `json:"plugins"`
	Archives []string `json:"archives"`
	// Endpoint is host:port of the API server on this machine.
	Endpoint string `json:"endpoint"`
	// MachineProcess and MachineStart (clock ticks since boot) identify the machine's
	// first process.
	MachineProcess int       `json:"machineProcess"`
	MachineStart   uint64    `json:"machineStart"`
	Started        time.Time `json:"started"`
	// Complete means that `lab up` has finished.
	Complete bool `json:"complete"`
}

// ErrNone is the error of Load without a lab.
var ErrNone = errors.New("no lab is up; start one with `lab up`")

// Load reads the configuration of the lab, complete or not. Without a lab it returns
// ErrNone.
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

// Save writes the configuration atomically.
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
