package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"spiderpool.dev/spiderpool/test/lab/internal/state"
)

// ctrScript is ctr for this machine: it runs ctr inside the lab, next to containerd.
const ctrScript = `#!/bin/sh
# ctr in a node of the lab: LAB_NODE chooses it.
exec %q exec "${LAB_NODE:-%s}" -- ctr "$@"
`

// Tools is the directory of the user's programs: kubectl, helm and ctr.
func (l Lab) Tools() string { return filepath.Join(string(l.Dir), "bin") }

func (l Lab) writeTools(config state.Config) error {
	t, err := load(Options{Topology: config.Topology, Nodes: config.Nodes})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Tools(), 0o755); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"kubectl": filepath.Join(config.Programs, "kubectl"),
		"helm":    filepath.Join(config.Programs, "helm"),
		"lab":     l.Dir.Program(),
	} {
		if err := os.Symlink(target, filepath.Join(l.Tools(), name)); err != nil {
			return err
		}
	}
	script := fmt.Sprintf(ctrScript, l.Dir.Program(), t.Nodes[0].Name)
	return os.WriteFile(filepath.Join(l.Tools(), "ctr"), []byte(script), 0o755)
}
