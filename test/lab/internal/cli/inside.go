package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/cloudapi"
	"spiderpool.dev/spiderpool/test/lab/internal/cluster"
	"spiderpool.dev/spiderpool/test/lab/internal/controlplane"
	"spiderpool.dev/spiderpool/test/lab/internal/lab"
	"spiderpool.dev/spiderpool/test/lab/internal/lb"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/uml"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

// insideCommands are hidden: the lab itself runs them inside the machine.
func insideCommands() []*cobra.Command {
	commands := []*cobra.Command{
		{Use: "machine", Short: "First process of a machine", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			// File descriptors, in order: the start signal, then the sockets of the API,
			// the control plane and the machine.
			ready, sockets := os.NewFile(3, "ready"), []*os.File{os.NewFile(4, "API"), os.NewFile(5, "control plane"), os.NewFile(6, "machine")}
			server := exec.Command("/proc/self/exe", "serve")
			server.Args[0] = "lab"
			server.Stdout, server.Stderr, server.ExtraFiles = os.Stdout, os.Stderr, sockets
			return machine.Init(state.Default(), ready, server)
		}},
		// User Mode Linux appends its own arguments.
		{Use: "guest", Short: "First process of a guest kernel", Args: cobra.ArbitraryArgs, RunE: func(*cobra.Command, []string) error {
			log, err := os.OpenFile(filepath.Join(state.Default().Logs(), "guest.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
			if err != nil {
				return err
			}
			server := exec.Command(state.Default().Program(), "serve-guest")
			server.Stdout, server.Stderr = log, log
			server.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
			return machine.GuestInit(state.Default(), uml.MountSystem, server, log)
		}},
		{Use: "serve-guest", Short: "Server of a guest kernel", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return serveGuest(cmd.Context())
		}},
		{Use: "serve", Short: "Server of a machine", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context())
		}},
		{Use: "node CONFIG", Short: "First process of a node", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			var config machine.NodeConfig
			if err := json.Unmarshal([]byte(args[0]), &config); err != nil {
				return err
			}
			return machine.NodeInit(config, os.NewFile(3, "ready"))
		}},
		{Use: "neighbours", Short: "ARP and NDP of a VPC", Args: cobra.NoArgs, RunE: serving(vpc.ServeNeighbours)},
		{Use: "cloud-api", Short: "API of the cloud", Args: cobra.NoArgs, RunE: serving(cloudapi.Serve)},
		{Use: "load-balancer", Short: "Load balancers of the cloud", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			_, t, err := loaded()
			if err != nil {
				return err
			}
			return lb.Run(cmd.Context(), lb.Config{Kubeconfig: state.Default().InnerKubeconfig(), Topology: t, Log: slog.Default()})
		}},
	}
	for _, cmd := range commands {
		cmd.Hidden = true
	}
	return commands
}

// serving runs a service of the lab's topology until the end of the command.
func serving(serve func(context.Context, *topology.Topology, *slog.Logger) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		_, t, err := loaded()
		if err != nil {
			return err
		}
		return serve(cmd.Context(), t, slog.Default())
	}
}

// loaded returns the configuration of the lab around this process.
func loaded() (state.Config, *topology.Topology, error) {
	config, err := state.Default().Load()
	if err != nil {
		return config, nil, err
	}
	t, err := topology.Load(config.Topology)
	if err == nil {
		t, err = t.WithNodes(config.Nodes)
	}
	return config, t, err
}

// serve runs the control plane and the nodes. With User Mode Linux, it starts the
// guest, which runs the nodes.
func serve(ctx context.Context) error {
	config, t, err := loaded()
	if err != nil {
		return err
	}
	var sockets [3]net.Listener
	for i := range sockets {
		if sockets[i], err = net.FileListener(os.NewFile(uintptr(3+i), "socket")); err != nil {
			return fmt.Errorf("inherit socket %d: %w", i, err)
		}
	}
	dir := state.Default()
	control := controlplane.New(controlplane.Config{
		Dir: dir, Topology: t, Programs: config.Programs, Endpoint: config.Endpoint,
		DialNode: func(ctx context.Context, network, address string) (net.Conn, error) {
			return client().Dial(ctx, t.Nodes[0].Name, network, address)
		},
	})
	failed := make(chan error, 4)
	go func() { failed <- machine.Serve(ctx, sockets[1], control) }()
	go func() { failed <- machine.Relay(ctx, sockets[0], control.Dial) }()
	if config.Kernel == lab.KernelUML {
		guest, err := bootGuest(dir, filepath.Join(config.Programs, "linux"))
		if err != nil {
			return err
		}
		go func() {
			// ProcessState below has the exit status.
			_ = guest.Wait()
			failed <- fmt.Errorf("the guest kernel ended: %s", guest.ProcessState)
		}()
		go func() { failed <- machine.Relay(ctx, sockets[2], dialGuest) }()
	} else {
		c, err := newCluster(config, t, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			return err
		}
		go func() { failed <- machine.Serve(ctx, sockets[2], c) }()
	}
	return <-failed
}

// newCluster returns the cluster with the control plane at the address. It also
// puts the lab's programs first in PATH.
func newCluster(config state.Config, t *topology.Topology, control netip.Addr) (*cluster.Cluster, error) {
	path := config.Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if err := os.Setenv("PATH", path); err != nil {
		return nil, err
	}
	c := cluster.Config{
		Dir: state.Default(), Topology: t, KubeProxyMode: config.KubeProxyMode,
		Programs: config.Programs, Plugins: config.Plugins, Archives: config.Archives, Shared: []string{config.Cache},
		ControlPlane: netip.AddrPortFrom(control, controlplane.Port),
	}
	if config.Kernel == lab.KernelUML {
		c.Processor = c.Dir.Processor()
	}
	return cluster.New(c), nil
}

func bootGuest(dir state.Dir, kernel string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(dir.Logs(), "kernel.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := uml.WriteProcessor(dir.Processor()); err != nil {
		return nil, err
	}
	return uml.Start(uml.Config{Kernel: kernel, Dir: dir.Volatile(), Init: []string{dir.Program(), "guest"}, Env: []string{state.Environment(dir)}}, log)
}

// dialGuest connects to the guest, which may still be booting.
func dialGuest(ctx context.Context) (net.Conn, error) {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return uml.Dial(ctx)
}

func serveGuest(ctx context.Context) error {
	config, t, err := loaded()
	if err != nil {
		return err
	}
	listener, err := uml.Listen(ctx)
	if err != nil {
		return err
	}
	c, err := newCluster(config, t, uml.Outside())
	if err != nil {
		return err
	}
	return machine.Serve(ctx, listener, c)
}
