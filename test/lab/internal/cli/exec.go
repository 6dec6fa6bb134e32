package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/test/lab/internal/controlplane"
	"spiderpool.dev/spiderpool/test/lab/internal/image"
	"spiderpool.dev/spiderpool/test/lab/internal/machine"
	"spiderpool.dev/spiderpool/test/lab/internal/registry"
	"spiderpool.dev/spiderpool/test/lab/internal/state"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

func execCommand() *cobra.Command {
	var env []string
	cmd := &cobra.Command{
		Use:     "exec HOST -- COMMAND...",
		Short:   "Run a command in a node or another host of the lab",
		Example: "  lab exec worker1 -- ip route\n  lab exec internet -- curl -s http://203.0.113.100/",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := args[1:]
			if command[0] == "--" {
				command = command[1:]
			}
			code, err := client().Exec(cmd.Context(), machine.Command{
				Host: args[0], Args: command, Env: env,
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Terminal: true,
			})
			return ended(code, err)
		},
	}
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "KEY=VALUE; repeatable")
	// Flags after the host belong to the command.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func daemonCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "daemon NAME stop|start|kill",
		Short:     "Stop, start or crash a daemon of the lab (`lab status` lists the names)",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"stop", "start", "kill"},
		RunE: func(cmd *cobra.Command, args []string) error {
			owner := client()
			if controlplane.Has(args[0]) {
				owner = controlPlane()
			}
			return owner.Daemon(cmd.Context(), args[0], args[1])
		},
	}
}

func rebootCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reboot NODE",
		Short: "Restart a node like a power failure: its processes and pods end, its disk stays",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client().Daemon(cmd.Context(), args[0], "reboot")
		},
	}
}

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl ARGS...",
		Short:              "Run kubectl on the lab's cluster",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := state.Default()
			config, err := dir.Load()
			if err != nil {
				return err
			}
			run := exec.Command(filepath.Join(config.Programs, "kubectl"), args...)
			run.Env = append(os.Environ(), "KUBECONFIG="+dir.Kubeconfig())
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			err = run.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exitCode(exit.ExitCode())
			}
			return err
		},
	}
}

func ended(code int, err error) error {
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

func imageLoadCommand() *cobra.Command {
	var ref string
	cmd := &cobra.Command{
		Use:   "load ARCHIVE|DIR...",
		Short: "Load images into the lab's registry",
		Long: `Load images into the lab's registry, the source of all images on its nodes.
A source is a docker or OCI archive, a directory with an OCI layout, or a root
file system (needs --name).`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ref != "" && len(args) > 1 {
				return fmt.Errorf("--name %s names one image, but there are %d sources", ref, len(args))
			}
			for _, source := range args {
				if err := loadImage(cmd.Context(), source, ref); err != nil {
					return fmt.Errorf("load %s: %w", source, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&ref, "name", "", "name of the image, instead of the name in the archive")
	return cmd
}

func loadImage(ctx context.Context, source, ref string) (err error) {
	transport, err := registryTransport()
	if err != nil {
		return err
	}
	images, closeImages, err := image.Open(source)
	defer func() { err = errors.Join(err, closeImages()) }()
	if err != nil {
		return err
	}
	if ref != "" && len(images) != 1 {
		return fmt.Errorf("--name %s names one image, but the source has %d", ref, len(images))
	}
	for _, img := range images {
		names := img.Names
		if ref != "" {
			names = []string{ref}
		}
		if len(names) == 0 {
			return errors.New("the image has no name: give it one with --name")
		}
		for _, name := range names {
			if err := registry.Push(ctx, transport, name, img.Image); err != nil {
				return err
			}
			fmt.Println(name)
		}
	}
	return nil
}

// registryTransport connects to the lab's registry from inside its host, for any
// address.
func registryTransport() (http.RoundTripper, error) {
	config, err := state.Default().Load()
	if err != nil {
		return nil, err
	}
	t, err := topology.Load(config.Topology)
	if err != nil {
		return nil, err
	}
	return &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return client().Dial(ctx, t.Registry.Host, network, t.RegistryAddress().String())
	}}, nil
}
