package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/test/lab/internal/cgroup"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// startNodes starts every missing node: it creates its namespaces, file system and
// control group.
func (c *Cluster) startNodes(context.Context) error {
	return c.eachNode(func(node topology.Host) error {
		if _, err := c.target(node.Name); err == nil {
			return nil
		}
		if err := cgroup.Create(c.group(node)); err != nil {
			return err
		}
		if err := cgroup.Weigh(c.group(node)); err != nil {
			return err
		}
		config := machine.NodeConfig{
			Name:    node.Name,
			Dir:     c.nodeDir(node),
			Plugins: c.Plugins,
			Shared:  c.Shared, Processor: c.Processor,
		}
		if err := c.writeNodeFiles(node, filepath.Join(config.Dir, "root", "upper")); err != nil {
			return err
		}
		process, err := c.startNode(node, config)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.nodes[node.Name] = process
		return nil
	})
}

// startNode starts the node's first process. It returns once other processes can
// enter the node.
func (c *Cluster) startNode(node topology.Host, config machine.NodeConfig) (*os.Process, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(c.Dir.Logs(), node.Name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ready, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path: c.Dir.Program(), Args: []string{"lab", "node", string(text)}, Stdout: log, Stderr: log,
		ExtraFiles: []*os.File{report},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	}
	target := ns.Target{Net: filepath.Join("/run/netns", node.Namespace())}
	if err := target.Start(cmd); err != nil {
		return nil, errors.Join(err, report.Close())
	}
	if err := report.Close(); err != nil {
		return nil, err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("the node's first process ended; see %s", log.Name()), cmd.Wait())
	}
	return cmd.Process, nil
}

// group returns the name of the node's control group.
func (c *Cluster) group(node topology.Host) string {
	return c.Dir.Control() + "/" + node.Name
}

func (c *Cluster) nodeDir(node topology.Host) string {
	return filepath.Join(c.Dir.Volatile(), "nodes", node.Name)
}

// writeNodeFiles writes the node's initial files below root.
func (c *Cluster) writeNodeFiles(node topology.Host, root string) error {
	hosts := "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
	for _, other := range c.Topology.Nodes {
		for _, addr := range other.Addresses() {
			hosts += fmt.Sprintf("%s %s\n", addr, other.Name)
		}
	}
	files := map[string]string{
		"/etc/hostname": node.Name + "\n",
		"/etc/hosts":    hosts,
		// The lab has no name server. Without this line, pods with the node's
		// resolv.conf would try 127.0.0.1.
		"/etc/resolv.conf": "options attempts:1 timeout:1\n",
		"/etc/machine-id":  machineID(node),
	}
	for name, content := range c.runtimeFiles(node) {
		files[name] = content
	}
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, name := range iptablesPrograms {
		link := filepath.Join(root, "/usr/sbin", name)
		legacy := strings.Replace(name, "tables", "tables-legacy", 1)
		if err := replaceLink(legacy, link); err != nil {
			return err
		}
	}
	return copyDir(filepath.Join(root, etc), c.Dir.Secrets(node.Name))
}

// copyDir copies the files of a directory, readable by their owner only.
func copyDir(to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, entry.Name()), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// iptablesPrograms are the programs that must use the kernel's xtables instead of
// nf_tables on a node, because nf_tables cannot translate addresses in User Mode Linux.
var iptablesPrograms = []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"}

// replaceLink replaces link by a symbolic link to target.
func replaceLink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, link)
}

// machineID returns the node's machine ID: unique, and the same after each start.
func machineID(node topology.Host) string {
	return fmt.Sprintf("%032x\n", []byte(fmt.Sprintf("%16.16s", node.Name)))
}
