package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/restconfig"
)

// clusterOptions are the flags of commands that read the cluster.
type clusterOptions struct{ kubeconfig, output string }

func (o *clusterOptions) kubeconfigFlag(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty for KUBECONFIG or the pod's service account")
}

func (o *clusterOptions) outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "output format: table or json")
}

func (o *clusterOptions) check() error {
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("--output %q: write table or json", o.output)
	}
	return nil
}

func (o *clusterOptions) connect() (*agentclient.Client, error) {
	config, err := restconfig.Load(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	return agentclient.NewClient(config)
}
