package cniinstall

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/process"
)

// Command is the program cni-install.
func Command(env *process.Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "cni-install",
		Short: "Install CNI plugins, or the configuration of Multus, on this pod's node, or remove them",
		Example: `  cni-install plugins --source /opt/spiderpool/cni --target /host/opt/cni/bin \
    --socket /var/run/spidernet/spiderpool.sock --state-dir /var/lib/spiderpool --log-dir /var/log/spidernet
  cni-install multus --namespace kube-system --remove-on-exit
  cni-install remove --multus --keep-network`,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("no command: write plugins, multus, remove or wait, or see --help")
		},
	}
	root.AddCommand(pluginsCommand(env), multusCommand(env), removeCommand(env), &cobra.Command{
		Use:   "wait",
		Short: "Wait for a signal, so that the pod of a finished removal stays",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	})
	return root
}

func pluginsCommand(env *process.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugins",
		Short: "Copy the plugins to the node, and end",
		Args:  cobra.NoArgs,
	}
	source := cmd.Flags().String("source", "/opt/spiderpool/cni", "directory with the plugins")
	target := cmd.Flags().String("target", "/host/opt/cni/bin", "the node's directory of CNI plugins, as mounted here")
	var node cniconf.Node
	const unlessEmpty = "; if a path is set, the plugins get all three in the file " + cniconf.NodeFile
	cmd.Flags().StringVar(&node.Socket, "socket", "", "the path of the agent's unix socket on the node"+unlessEmpty)
	cmd.Flags().StringVar(&node.StateDir, "state-dir", "", "the agent's state directory on the node"+unlessEmpty)
	cmd.Flags().StringVar(&node.LogDir, "log-dir", "", "the directory on the node for the plugins' log files"+unlessEmpty)
	var programs []string
	detachFlag(cmd, &programs)
	cmd.RunE = func(*cobra.Command, []string) error {
		if err := detachPrograms(env.Log, programs); err != nil {
			return err
		}
		if err := writeNode(env.Log, *target, node); err != nil {
			return err
		}
		return InstallPlugins(env.Log, *source, *target)
	}
	return cmd
}

func multusCommand(env *process.Env) *cobra.Command {
	var m Multus
	cmd := &cobra.Command{
		Use:   "multus",
		Short: "Keep the configuration of Multus on the node up to date until a signal",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if m.Namespace == "" {
				return errors.New("--namespace is empty: give the namespace of the installation")
			}
			server, err := APIServerFromEnvironment(env.Getenv)
			if err != nil {
				return err
			}
			m.APIServer = server
			return m.Run(cmd.Context(), env.Log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&m.ConfDir, "conf-dir", "/host/etc/cni/net.d", "the node's directory of CNI configurations, as mounted here")
	flags.StringVar(&m.ConfDirOnHost, "conf-dir-on-host", "/etc/cni/net.d", "the path of the same directory on the node")
	flags.StringVar(&m.BinDirOnHost, "bin-dir-on-host", "/opt/cni/bin", "the path of the directory of CNI plugins on the node")
	flags.StringVar(&m.ClusterNetwork, "cluster-network", "",
		`default NetworkAttachmentDefinition of pods; empty for the network of the node's first CNI configuration, or else "default"`)
	flags.StringVar(&m.Namespace, "namespace", "", "namespace of the default NetworkAttachmentDefinitions (required)")
	flags.StringVar(&m.LogLevel, "log-level", "", "log level of Multus: debug, error, verbose or panic")
	flags.StringVar(&m.LogFile, "log-file", "", "log file of Multus on the node")
	flags.StringVar(&m.Credentials, "credentials", "/var/run/secrets/kubernetes.io/serviceaccount", "directory with ca.crt and token of the service account")
	flags.BoolVar(&m.RemoveOnExit, "remove-on-exit", false, "remove the configuration when this process ends")
	flags.DurationVar(&m.Interval, "interval", 10*time.Second, "time between two checks of the files")
	return cmd
}

func detachFlag(cmd *cobra.Command, directories *[]string) {
	cmd.Flags().StringSliceVar(directories, "detach", nil, "directories with pinned eBPF programs to detach and remove, e.g. /host/sys/fs/bpf/spiderpool")
}

func removeCommand(env *process.Env) *cobra.Command {
	var r Removal
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Remove the configuration of Multus, our network state and our plugins from the node, and end",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return r.Run(env.Log)
		},
	}
	detachFlag(cmd, &r.Programs)
	flags := cmd.Flags()
	flags.StringVar(&r.Source, "source", "/opt/spiderpool/cni", "directory with our plugins; the node's files of the same names are removed")
	flags.StringVar(&r.BinDir, "bin-dir", "/host/opt/cni/bin", "the node's directory of CNI plugins, as mounted here")
	flags.StringVar(&r.ConfDir, "conf-dir", "/host/etc/cni/net.d", "the node's directory of CNI configurations, as mounted here")
	flags.BoolVar(&r.Multus, "multus", false, "remove our configuration of Multus, and its plugins")
	flags.StringVar(&r.PodNamespaces, "remove-policies", "", "directory with the network namespaces of pods whose packet filters are removed, and the node's, e.g. /run/netns")
	flags.BoolVar(&r.KeepNetwork, "keep-network", false, "keep the network state and our plugins for running pods")
	return cmd
}
