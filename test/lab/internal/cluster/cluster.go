// Package cluster runs inside a lab's machine. It holds the simulated network, the
// nodes of a real Kubernetes cluster and their image registry, and implements
// machine.Guest.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/ns"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// Config describes a cluster.
type Config struct {
	Dir      state.Dir
	Topology *topology.Topology
	// KubeProxyMode is iptables, nftables or ipvs.
	KubeProxyMode string
	// Programs, Plugins and Archives are the directory of all programs, the
	// directory of the CNI plugins, and the image archives.
	Programs string
	Plugins  string
	Archives []string
	// Shared are the directories of the programs' files.
	Shared []string
	// Processor, if set, replaces the nodes' /proc/cpuinfo.
	Processor string
	// ControlPlane is the API server's address as seen from this machine.
	ControlPlane netip.AddrPort
}

// Cluster is one cluster. Its methods may be called concurrently.
type Cluster struct {
	Config
	daemons *daemon.Set

	mu sync.Mutex
	// nodes are the first processes of nodes, by name.
	nodes map[string]*os.Process
	up    bool
	// api forwards connections from the nodes to the control plane, once it listens.
	api net.Listener
	// registry is the nodes' image registry, once it listens.
	registry net.Listener
	// internet is the web server of the internet host, once it listens.
	internet net.Listener
}

// New returns a stopped cluster.
func New(config Config) *Cluster {
	return &Cluster{Config: config, daemons: daemon.NewSet(config.Dir.Logs()), nodes: map[string]*os.Process{}}
}

// actions are the steps that start the cluster, up to the registration of its nodes.
// Most have no undo, because the end of the machine removes everything; see
// machine.Init.
//
// Independent daemons start together and are awaited once, because each takes long
// to load.
func (c *Cluster) actions() []action.Action {
	return slices.Concat(c.network(), []action.Action{
		{Name: "nodes: namespaces and file systems", Do: c.startNodes},
		{Name: "nodes: access to the control plane", Do: c.serveAPI},
		{Name: "image registry", Do: c.serveRegistry},
		{Name: "internet host: web server", Do: c.serveInternet, Undo: c.closeInternet},
		c.daemons.Action("containerd: start", c.containerd),
		{Name: "containerd: ready", Do: c.waitContainerd},
		c.daemons.Action("kubelet and kube-proxy: start", c.nodeAgents),
		{Name: "nodes: registered", Do: c.waitNodes},
		{Name: "CoreDNS and IngressClass: applied", Do: c.applyAddons},
		c.daemons.Action("load balancers: start", c.loadBalancer),
	})
}

// Up implements machine.Guest. It can be repeated.
func (c *Cluster) Up(ctx context.Context, out io.Writer) error {
	if err := action.Report(ctx, out, c.actions()); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	return nil
}

// Place implements machine.Guest.
func (c *Cluster) Place(host string) (machine.Place, error) {
	env := []string{"HOME=/root", "LAB_HOST=" + host}
	if host == "" {
		return machine.Place{Env: env}, nil
	}
	c.mu.Lock()
	process := c.nodes[host]
	c.mu.Unlock()
	if process != nil {
		env = append(env, "KUBECONFIG=/etc/kubernetes/admin.conf", "CONTAINERD_ADDRESS="+containerdSocket, "CONTAINERD_NAMESPACE=k8s.io")
		return machine.Place{Target: ns.Target{Process: process.Pid}, Env: env}, nil
	}
	names := c.Topology.HostNames()
	file := filepath.Join("/run/netns", topology.HostNamespace(host))
	if _, err := os.Stat(file); err != nil {
		return machine.Place{}, fmt.Errorf("no host %q; known hosts: %s", host, strings.Join(names, ", "))
	}
	return machine.Place{Target: ns.Target{Net: file}, Env: env}, nil
}

// Status implements machine.Guest.
func (c *Cluster) Status() machine.Status {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	return machine.Status{Kernel: machine.Kernel(), Hosts: c.Topology.HostNames(), Daemons: c.daemons.Status(), Up: up}
}

// Daemon implements machine.Guest. With the verb "reboot", the name is that of a node.
func (c *Cluster) Daemon(ctx context.Context, name, verb string) error {
	if verb == reboot {
		i := slices.IndexFunc(c.Topology.Nodes, func(node topology.Host) bool { return node.Name == name })
		if i < 0 {
			return fmt.Errorf("no node %q", name)
		}
		return c.reboot(ctx, c.Topology.Nodes[i])
	}
	return c.daemons.Control(ctx, name, verb)
}

// control is the node that represents the control plane on the network.
func (c *Cluster) control() topology.Host { return c.Topology.Nodes[0] }

// target is the place of a node's programs.
func (c *Cluster) target(node string) (ns.Target, error) {
	c.mu.Lock()
	process := c.nodes[node]
	c.mu.Unlock()
	if process == nil {
		return ns.Target{}, fmt.Errorf("node %s is not running", node)
	}
	return ns.Target{Process: process.Pid}, nil
}

// program returns the path of one of the lab's programs.
func (c *Cluster) program(name string) string { return filepath.Join(c.Programs, name) }

// joined returns the addresses as a comma-separated list, the format of Kubernetes'
// flags.
func joined(addrs []netip.Addr) string {
	var list []string
	for _, addr := range addrs {
		list = append(list, addr.String())
	}
	return strings.Join(list, ",")
}

// eachNode calls f for all nodes in parallel.
func (c *Cluster) eachNode(f func(topology.Host) error) error {
	errs := make([]error, len(c.Topology.Nodes))
	var all sync.WaitGroup
	for i, node := range c.Topology.Nodes {
		all.Go(func() {
			if err := f(node); err != nil {
				errs[i] = fmt.Errorf("node %s: %w", node.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
