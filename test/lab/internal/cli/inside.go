package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/cluster"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
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
	guest := cluster.New(cluster.Config{
		Dir: state.Default(), Topology: t, KubeProxyMode: config.KubeProxyMode,
		Programs: config.Programs, Plugins: config.Plugins, Archives: config.Archives, Shared: []string{config.Cache},
	})
	failed := make(chan error, 2)
	go func() { failed <- machine.Relay(ctx, api, guest.DialAPI) }()
	go func() { failed <- machine.Serve(ctx, control, guest) }()
	return <-failed
}
