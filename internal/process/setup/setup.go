// Package setup reads the configuration file of a program and the access to the API server. The
// agent, the controller and the console start with it.
package setup

import (
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/restconfig"
	"spiderpool.dev/spiderpool/internal/process"
)

// Flags are the flags of each of these programs.
type Flags struct {
	configPath, kubeconfig string
	// BindAddress is the IP address to listen on; "" means that of the configuration.
	BindAddress string
}

// AddFlags adds the flags to a command. address is the help of --bind-address.
func AddFlags(cmd *cobra.Command, address string) *Flags {
	f := new(Flags)
	cmd.Flags().StringVar(&f.configPath, "config", config.DefaultPath, "configuration file")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file; empty for KUBECONFIG or the pod's service account")
	cmd.Flags().StringVar(&f.BindAddress, "bind-address", "", address)
	return f
}

// Load reads the configuration file, sets the level of the log, and returns how to reach the API
// server. take keeps the program's part of the file, e.g. that of File.Agent, and returns its level.
func (f *Flags) Load(env *process.Env, take func(*config.File) (slog.Level, error)) (*rest.Config, error) {
	file, err := config.Load(f.configPath)
	if err != nil {
		return nil, err
	}
	level, err := take(file)
	if err != nil {
		return nil, err
	}
	env.Level.Set(level)
	return restconfig.Load(f.kubeconfig)
}
