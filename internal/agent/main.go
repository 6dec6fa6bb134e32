package agent

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/servedschema"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/process/setup"
)

// serviceGC is the percentage of garbage (GOGC) in the heap of an agent that follows all services. The kept data is large
// and rarely changes, so a low percentage costs little time: ADR 22 has the numbers.
const serviceGC = 50

// options differ between ways to run an agent, not between installations.
type options struct {
	// bindAddress is the IP address for health checks and metrics; "" means those of the
	// configuration.
	bindAddress string
	// minLeaseAge is the minimum age of a lease before it may be reclaimed without a
	// DEL. 0 means reclaim.DefaultMinAge. A lower value is safe only with a runtime
	// that lists a sandbox before it calls plugins for it.
	minLeaseAge time.Duration
	// definitions compares the custom resource definitions.
	definitions definitionsOptions
	// protect returns a handler that asks the API server whether a client may use next, for
	// cfg.Metrics.Secure.
	protect func(next http.Handler) (http.Handler, error)
}

// Command is the program spiderpool-agent.
func Command(env *process.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "spiderpool-agent",
		Short:   "Allocate the addresses of this node's pods",
		Version: config.Version,
		Example: `  # on a node, outside a pod
  SPIDERPOOL_NODE_NAME=node-1 SPIDERPOOL_POD_NAME=dev SPIDERPOOL_POD_NAMESPACE=kube-system \
    spiderpool-agent --config config.yaml --kubeconfig /etc/kubernetes/admin.conf`,
		Args: cobra.NoArgs,
	}
	flags := setup.AddFlags(cmd, "IP address for health checks and metrics; empty for those of the configuration")
	minLeaseAge := cmd.Flags().Duration("min-lease-age", 0,
		"minimum age of a lease before it may be reclaimed without a DEL, e.g. 5m; 0 for the default")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return run(cmd.Context(), env, flags, options{bindAddress: flags.BindAddress, minLeaseAge: *minLeaseAge})
	}
	return cmd
}

func run(ctx context.Context, env *process.Env, flags *setup.Flags, o options) error {
	var cfg config.Agent
	server, err := flags.Load(env, func(file *config.File) (_ slog.Level, err error) {
		cfg, err = file.Agent(env.Getenv)
		return cfg.LogLevel, err
	})
	if err != nil {
		return err
	}
	if cfg.Service.Mode != config.ServiceKubeProxy && env.Getenv("GOGC") == "" {
		debug.SetGCPercent(serviceGC)
	}
	o.protect = func(next http.Handler) (http.Handler, error) { return tokenauth.New(server, "/metrics", next, env.Log) }
	client, err := agentclient.NewClient(server)
	if err != nil {
		return err
	}
	written := []any{&v2beta1.SpiderIPBlock{}, &v2beta1.SpiderEndpoint{}}
	o.definitions = definitionsOptions{
		compare:  func(ctx context.Context) error { return servedschema.Check(ctx, env.Log, server, written...) },
		versions: client.DefinitionVersions,
		fields:   servedschema.Fingerprint(written...),
	}
	a, err := newAgent(ctx, cfg, o, client, env.Log)
	if err != nil {
		return err
	}
	return a.run(ctx)
}
