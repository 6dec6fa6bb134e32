package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/restconfig"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/process"
)

// hookTimeout bounds each step before an installation or upgrade, and of a removal: Helm
// waits for it, by default 5 minutes.
const hookTimeout = 4 * time.Minute

// Command is the program spiderpool-init.
func Command(env *process.Env) *cobra.Command {
	root := &cobra.Command{
		Use:     "spiderpool-init",
		Short:   "Write the custom resource definitions, create the default objects of an installation, or remove an installation",
		Version: config.Version,
		Example: `  spiderpool-init definitions
  spiderpool-init install --config /etc/spiderpool/config.yaml
  spiderpool-init stop --daemonset spiderpool-multus --daemonset spiderpool-agent
  spiderpool-init await --cleaner spiderpool-init-clean
  spiderpool-init cleanup --secret spiderpool-controller-server-certs --job spiderpool-init --lease spiderpool-controller`,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("no command: write definitions, install, stop, await or cleanup, or see --help")
		},
	}
	kubeconfig := root.PersistentFlags().String("kubeconfig", "", "kubeconfig file; empty for KUBECONFIG, ~/.kube/config or the pod's service account")
	root.AddCommand(definitionsCommand(env, kubeconfig), installCommand(env, kubeconfig), stopCommand(env, kubeconfig), awaitCommand(env, kubeconfig), cleanupCommand(env, kubeconfig))
	return root
}

func definitionsCommand(env *process.Env, kubeconfig *string) *cobra.Command {
	var also []string
	cmd := &cobra.Command{
		Use:   "definitions",
		Short: "Create the custom resource definitions, or replace those of an earlier release",
		Args:  cobra.NoArgs,
		RunE: bounded(env, kubeconfig, func(ctx context.Context, c client.Client) error {
			return UpdateDefinitions(ctx, env.Log, c, config.Version, also...)
		}),
	}
	cmd.Flags().StringArrayVar(&also, "also", nil,
		"name of a definition of another project to create if it is missing, e.g. network-attachment-definitions.k8s.cni.cncf.io; repeatable")
	return cmd
}

func installCommand(env *process.Env, kubeconfig *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Create the default objects, and wait until the webhooks accept them",
		Args:  cobra.NoArgs,
	}
	path := cmd.Flags().String("config", config.DefaultPath, "configuration file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := config.Load(*path)
		if err != nil {
			return err
		}
		cfg, err := file.Install(env.Getenv)
		if err != nil {
			return err
		}
		env.Level.Set(cfg.LogLevel)
		c, err := newClient(cmd.Context(), env.Log, *kubeconfig, cfg.Timeout)
		if err != nil {
			return err
		}
		return Install(cmd.Context(), env.Log, c, cfg)
	}
	return cmd
}

func cleanupCommand(env *process.Env, kubeconfig *string) *cobra.Command {
	leftovers := Leftovers{Namespace: env.Getenv(config.EnvPodNamespace)}
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the objects that an uninstallation leaves behind",
		Args:  cobra.NoArgs,
		RunE: bounded(env, kubeconfig, func(ctx context.Context, c client.Client) error {
			return Cleanup(ctx, env.Log, c, leftovers)
		}),
	}
	cmd.Flags().StringArrayVar(&leftovers.Secrets, "secret", nil, "Secret with a certificate of the controller; repeat the flag for several")
	cmd.Flags().StringVar(&leftovers.Job, "job", "", "Job of the last installation")
	cmd.Flags().StringVar(&leftovers.Lease, "lease", "", "Lease of the controller's leader election")
	return cmd
}

func stopCommand(env *process.Env, kubeconfig *string) *cobra.Command {
	r := Removal{Namespace: env.Getenv(config.EnvPodNamespace)}
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Before an uninstallation, refuse it while pods have addresses, then end agent and Multus",
		Args:  cobra.NoArgs,
		RunE:  bounded(env, kubeconfig, func(ctx context.Context, c client.Client) error { return r.Stop(ctx, env.Log, c) }),
	}
	cmd.Flags().StringArrayVar(&r.Stopped, "daemonset", nil, "DaemonSet to delete; repeat the flag for several")
	cmd.Flags().BoolVar(&r.WithRunningPods, "with-running-pods", false, "continue although pods have addresses")
	return cmd
}

func awaitCommand(env *process.Env, kubeconfig *string) *cobra.Command {
	r := Removal{Namespace: env.Getenv(config.EnvPodNamespace)}
	cmd := &cobra.Command{
		Use:   "await",
		Short: "Wait until a DaemonSet has cleaned every node",
		Args:  cobra.NoArgs,
		RunE:  bounded(env, kubeconfig, func(ctx context.Context, c client.Client) error { return r.Await(ctx, env.Log, c) }),
	}
	cmd.Flags().StringVar(&r.Cleaner, "cleaner", "", "the DaemonSet (required)")
	_ = cmd.MarkFlagRequired("cleaner")
	return cmd
}

// removing returns the body of a command that runs step with hookTimeout.
func bounded(env *process.Env, kubeconfig *string, step func(context.Context, client.Client) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), hookTimeout, fmt.Errorf("timeout of %s", hookTimeout))
		defer cancel()
		c, err := newClient(ctx, env.Log, *kubeconfig, hookTimeout)
		if err != nil {
			return err
		}
		return step(ctx, c)
	}
}

// newClient waits for the API server, at most for the timeout.
func newClient(ctx context.Context, log *slog.Logger, kubeconfig string, timeout time.Duration) (c client.Client, err error) {
	server, err := restconfig.Load(kubeconfig)
	if err != nil {
		return nil, err
	}
	server.QPS = -1 // no limit: a cleanup may edit thousands of objects
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = retry(ctx, log, "the API server "+server.Host, func() error {
		c, err = client.New(server, client.Options{Scheme: scheme.New()})
		return err
	})
	return c, err
}
