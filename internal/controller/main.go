package controller

import (
	"log/slog"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/servedschema"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/process/setup"
)

// Command is the program spiderpool-controller.
func Command(env *process.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "spiderpool-controller",
		Short:   "Run the cluster-wide tasks: network attachments, status, reclaim and admission",
		Version: config.Version,
		Example: `  # outside the cluster
  SPIDERPOOL_POD_NAME=dev SPIDERPOOL_POD_NAMESPACE=kube-system spiderpool-controller --config config.yaml --kubeconfig ~/.kube/config`,
		Args: cobra.NoArgs,
	}
	flags := setup.AddFlags(cmd, "IP address for webhooks, health checks and metrics; empty for all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		boundMemory(env.Getenv, cgroupLimit)
		var cfg config.Controller
		server, err := flags.Load(env, func(file *config.File) (_ slog.Level, err error) {
			cfg, err = file.Controller(env.Getenv)
			return cfg.LogLevel, err
		})
		if err != nil {
			return err
		}
		if err := servedschema.Check(cmd.Context(), env.Log, server, &v2beta1.SpiderIPPool{}, &v2beta1.SpiderSubnet{}, &v2beta1.SpiderReservedIP{},
			&v2beta1.SpiderEndpoint{}, &v2beta1.SpiderMultusConfig{}, &v2beta1.SpiderCoordinator{}, &v2beta1.SpiderIPBlock{}, &v2beta1.SpiderPeerGroup{}, &v2beta1.SpiderCloudNetwork{}); err != nil {
			return err
		}
		return Run(cmd.Context(), cfg, Options{RestConfig: server, BindAddress: flags.BindAddress, Log: env.Log})
	}
	return cmd
}
