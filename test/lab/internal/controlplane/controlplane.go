// Package controlplane is the lab's Kubernetes control plane: etcd,
// kube-apiserver, kube-controller-manager and kube-scheduler. It is beside the
// nodes, as a cloud's managed control plane is: on this machine's own kernel,
// whatever kernel the nodes are on. Nodes find the API server at an address of
// the first node, which passes connections on; the API server reaches kubelets
// and webhooks through that node, as its egress selector tells it to.
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
	// Port is the API server's, here and at the first node.
	Port = 6443
	// DNSAddress is the address of the cluster's DNS service, DNSDomain its
	// domain.
	DNSAddress = "10.96.0.10"
	DNSDomain  = "cluster.local"
	// serviceIPv4 and serviceIPv6 are the ranges of ClusterIPs.
	serviceIPv4 = "10.96.0.0/16"
	serviceIPv6 = "fd00:10:96::/112"
)

// local is where the API server is to its neighbours.
var local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), Port)

// prefix is that of the control plane's daemons' names.
const prefix = "control-plane/"

// Config is what a control plane is made of and from.
type Config struct {
	Dir      state.Dir
	Topology *topology.Topology
	// Programs is the directory of all programs.
	Programs string
	// Endpoint is host:port at which this machine has the API server.
	Endpoint string
	// DialNode connects to an address as the first node does.
	DialNode func(ctx context.Context, network, address string) (net.Conn, error)
}

// ControlPlane is one control plane. It implements machine.Guest.
type ControlPlane struct {
	Config
	daemons *daemon.Set

	mu sync.Mutex
	// egress takes the API server's connections to nodes, once it listens.
	egress net.Listener
	issued bool
	up     bool
}

// New returns a control plane that is down.
func New(config Config) *ControlPlane {
	return &ControlPlane{Config: config, daemons: daemon.NewSet(config.Dir.Logs())}
}

// actions are the steps to a control plane that is ready. Their undo is the end
// of the machine.
func (c *ControlPlane) actions() []action.Action {
	return []action.Action{
		{Name: "certificates", Do: c.makeSecrets},
		{Name: "control plane: way to the nodes", Do: c.openEgress},
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

// Place implements machine.Guest: the control plane is no place to work in.
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

// Has tells whether a daemon of that name is one of a control plane's.
func Has(name string) bool { return strings.HasPrefix(name, prefix) }

// Dial connects to the API server.
func (c *ControlPlane) Dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", local.String())
}

// control is the node that stands for the control plane on the network.
func (c *ControlPlane) control() topology.Host { return c.Topology.Nodes[0] }

// file is a file of the control plane's own.
func (c *ControlPlane) file(name string) string {
	return filepath.Join(c.Dir.Secrets("control-plane"), name)
}

// openEgress sets the loopback link up and listens for the API server.
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
