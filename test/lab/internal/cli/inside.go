package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/cluster"
	"spiderpool.dev/spiderpool/test/lab/internal/lab"
	"spiderpool.dev/spiderpool/test/lab/internal/lb"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
	"spiderpool.dev/spiderpool/test/lab/internal/uml"
	"spiderpool.dev/spiderpool/test/lab/internal/vpc"
)

// insideCommands are what the lab runs of itself inside the machine; people have
// no use for them.
func insideCommands() []*cobra.Command {
	commands := []*cobra.Command{
		{Use: "machine", Short: "First process of a machine", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			// In order: what tells to go on, the control socket, the API socket.
			ready, control, api := os.NewFile(3, "ready"), os.NewFile(4, "control"), os.NewFile(5, "api")
			server := exec.Command("/proc/self/exe", "serve")
			server.Args[0] = "lab"
			server.Stdout, server.Stderr, server.ExtraFiles = os.Stdout, os.Stderr, []*os.File{control, api}
			return machine.Init(state.Default(), ready, server)
		}},
		// User Mode Linux adds arguments of its own.
		{Use: "guest", Short: "First process of a guest kernel", Args: cobra.ArbitraryArgs, RunE: func(*cobra.Command, []string) error {
			log, err := os.OpenFile(filepath.Join(state.Default().Logs(), "guest.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
			if err != nil {
				return err
			}
			server := exec.Command(state.Default().Program(), "serve-guest")
			server.Stdout, server.Stderr = log, log
			server.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
			return machine.GuestInit(state.Default(), prepareGuest, server, log)
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
		{Use: "neighbours", Short: "ARP and NDP of a VPC", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			_, t, err := loaded()
			if err != nil {
				return err
			}
			return vpc.ServeNeighbours(cmd.Context(), t, slog.Default())
		}},
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

// loaded is what the lab that this process is in was started with.
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

// serve runs what the machine holds, or, on User Mode Linux, the guest that does.
func serve(ctx context.Context) error {
	config, t, err := loaded()
	if err != nil {
		return err
	}
	control, err := net.FileListener(os.NewFile(3, "control"))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	api, err := net.FileListener(os.NewFile(4, "api"))
	if err != nil {
		return fmt.Errorf("API socket: %w", err)
	}
	failed := make(chan error, 3)
	if config.Kernel == lab.KernelUML {
		guest, err := bootGuest(state.Default())
		if err != nil {
			return err
		}
		go func() {
			// How it ended is in its state.
			_ = guest.Wait()
			failed <- fmt.Errorf("the guest kernel ended: %s", guest.ProcessState)
		}()
		go func() { failed <- machine.Relay(ctx, control, dialGuest) }()
		go func() {
			failed <- machine.Relay(ctx, api, func(ctx context.Context) (net.Conn, error) {
				return machine.Client{Connect: dialGuest}.Dial(ctx, t.Nodes[0].Name, "tcp", cluster.APIAddress)
			})
		}()
	} else {
		c, err := newCluster(config, t)
		if err != nil {
			return err
		}
		go func() { failed <- machine.Serve(ctx, control, c) }()
		go func() { failed <- machine.Relay(ctx, api, c.DialAPI) }()
	}
	return <-failed
}

// newCluster also makes the lab's programs those that commands are looked up
// among first.
func newCluster(config state.Config, t *topology.Topology) (*cluster.Cluster, error) {
	path := config.Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if err := os.Setenv("PATH", path); err != nil {
		return nil, err
	}
	c := cluster.Config{
		Dir: state.Default(), Topology: t, KubeProxyMode: config.KubeProxyMode,
		Programs: config.Programs, Plugins: config.Plugins, Archives: config.Archives, Shared: []string{config.Cache},
	}
	if config.Kernel == lab.KernelUML {
		c.Processor = c.Dir.Processor()
	}
	return cluster.New(c), nil
}

func bootGuest(dir state.Dir) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(dir.Logs(), "kernel.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := uml.WriteProcessor(dir.Processor()); err != nil {
		return nil, err
	}
	return uml.Start(uml.Config{Dir: dir.Volatile(), Init: []string{dir.Program(), "guest"}, Env: []string{state.Environment(dir)}}, log)
}

// dialGuest connects to the guest, which may still be booting.
func dialGuest(ctx context.Context) (net.Conn, error) {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return uml.Dial(ctx)
}

// prepareGuest mounts and loads what the guest kernel offers.
func prepareGuest() error {
	if err := uml.MountSystem(); err != nil {
		return err
	}
	dir := state.Default()
	config, err := dir.Load()
	if err != nil {
		return err
	}
	return uml.LoadModules(config.Modules, dir.Autoload(), append(cluster.KernelModules, vpc.KernelModules...))
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
	c, err := newCluster(config, t)
	if err != nil {
		return err
	}
	return machine.Serve(ctx, listener, c)
}
