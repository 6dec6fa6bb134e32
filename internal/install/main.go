package install

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

const usage = "usage: spiderpool-init install [--config FILE] | cleanup [--secret NAME] [--job NAME] [--lease NAME]"

// cleanupTimeout bounds a cleanup; an uninstallation waits for it.
const cleanupTimeout = 4 * time.Minute

// Main is the program spiderpool-init: args are its arguments, without its
// name. It reaches the cluster as kubectl does, or from inside a pod.
func Main(ctx context.Context, args []string) error {
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	switch command {
	case "install":
		path := flags.String("config", config.DefaultPath, "configuration file")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return runInstall(ctx, *path)
	case "cleanup":
		leftovers := Leftovers{Namespace: os.Getenv(config.EnvPodNamespace)}
		flags.StringVar(&leftovers.Secret, "secret", "", "Secret with the certificate that the controller made")
		flags.StringVar(&leftovers.Job, "job", "", "Job of the last installation")
		flags.StringVar(&leftovers.Lease, "lease", "", "Lease of the controller's leader")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return runCleanup(ctx, leftovers)
	default:
		return fmt.Errorf("unknown command %q; %s", command, usage)
	}
}

func runInstall(ctx context.Context, path string) error {
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	cfg, err := file.Install(os.Getenv)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	c, err := newClient(ctx, log, cfg.Timeout)
	if err != nil {
		return err
	}
	return Install(ctx, log, c, cfg)
}

func runCleanup(ctx context.Context, leftovers Leftovers) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	c, err := newClient(ctx, log, cleanupTimeout)
	if err != nil {
		return err
	}
	return Cleanup(ctx, log, c, leftovers)
}

// newClient waits until the API server is reached, at most for the timeout.
func newClient(ctx context.Context, log *slog.Logger, timeout time.Duration) (c client.Client, err error) {
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = retry(ctx, log, "the API server "+restConfig.Host, func() error {
		c, err = client.New(restConfig, client.Options{Scheme: scheme.New()})
		return err
	})
	return c, err
}
