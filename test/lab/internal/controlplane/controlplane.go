// Package controlplane is the lab's Kubernetes control plane: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler. Like a cloud's managed
// control plane it runs outside the nodes: on this machine's kernel, even if the nodes
// run on another one. Nodes reach the API server at an address of the first node,
// which forwards the connections. The API server reaches kubelets and webhooks through
// that node, using its egress selector.
package controlplane

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/test/lab/internal/action"
	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

const (
	// Port is the API server's port, both here and on the first node.
	Port = 6443
	// DNSAddress and DNSDomain are the address of the cluster's DNS service and its
	// domain.
	DNSAddress = "10.96.0.10"
	DNSDomain  = "cluster.local"
	// serviceIPv4 and serviceIPv6 are the ranges of ClusterIPs.
	serviceIPv4 = "10.96.0.0/16"
	serviceIPv6 = "fd00:10:96::/112"
)

// local is the API server's address for the other parts of the control plane.
var local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port)

// prefix begins the names of the control plane's daemons.
const prefix = "control-plane/"

// Config describes a control plane.
type Config struct {
	Dir      state.Dir
	Topology *topology.Topology
	// Programs is the directory of all programs.
	Programs string
	// Endpoint is the API server's host:port on this machine.
	Endpoint string
	// DialNode connects to an address from the first node.
	DialNode func(ctx context.Context, network, address string) (net.Conn, error)
}

// ControlPlane is one control plane. It implements machine.Guest.
type ControlPlane struct {
	Config
	daemons *daemon.Set

	mu sync.Mutex
	// egress accepts the API server's connections to nodes, once it listens.
	egress net.Listener
	issued bool
	up     bool
}

// New returns a stopped control plane.
func New(config Config) *ControlPlane {
	return &ControlPlane{Config: config, daemons: daemon.NewSet(config.Dir.Logs())}
}

// actions are the steps that start the control plane. The end of the machine undoes
// them.
func (c *ControlPlane) actions() []action.Action {
	return []action.Action{
		{Name: "certificates", Do: c.makeSecrets},
		{Name: "control plane: access to the nodes", Do: c.openEgress},
		c.daemons.Action("etcd and kube-apiserver: start", c.apiServer),
		{Name: "kube-apiserver: ready", Do: c.waitAPI},
		c.daemons.Action("kube-controller-manager and kube-scheduler: start", c.controllers),
		{Name: "kube-controller-manager and kube-scheduler: ready", Do: c.waitControllers},
	}
}

// Up implements machine.Guest. It can be repeated.
func (c *ControlPlane) Up(ctx context.Context, out io.Writer) error {
	if err := action.Report(ctx, out, c.actions()); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	return nil
}

// Place implements machine.Guest. Commands cannot run in the control plane.
func (c *ControlPlane) Place(string) (machine.Place, error) {
	return machine.Place{}, errors.New("commands run in the machine with the nodes")
}

// Status implements machine.Guest.
func (c *ControlPlane) Status() machine.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return machine.Status{Kernel: machine.Kernel(), Daemons: c.daemons.Status(), Up: c.up}
}

// Daemon implements machine.Guest.
func (c *ControlPlane) Daemon(ctx context.Context, name, verb string) error {
	return c.daemons.Control(ctx, name, verb)
}

// Has reports whether the daemon belongs to a control plane.
func Has(name string) bool { return strings.HasPrefix(name, prefix) }

// Dial connects to the API server.
func (c *ControlPlane) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", local.String())
}

// control is the node that represents the control plane on the network.
func (c *ControlPlane) control() topology.Host { return c.Topology.Nodes[0] }

// file returns the path of one of the control plane's own files.
func (c *ControlPlane) file(name string) string {
	return filepath.Join(c.Dir.Secrets("control-plane"), name)
}

// openEgress brings up the loopback link and listens for the API server.
func (c *ControlPlane) openEgress(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.egress != nil {
		return nil
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(loopback); err != nil {
		return err
	}
	c.egress, err = serveEgress(c.file(egressSocket), c.DialNode)
	return err
}
