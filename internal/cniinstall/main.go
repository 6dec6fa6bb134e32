package cniinstall

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"
)

const usage = "usage: cni-install plugins|multus [flags]"

// Main is the program cni-install: args are its arguments, without its name.
//
//	plugins --source DIR --target DIR     copies the plugins and ends
//	multus  --namespace NS [flags]        keeps the configuration of Multus until ctx ends
func Main(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "plugins":
		return pluginsMain(log, args[1:])
	case "multus":
		return multusMain(ctx, log, args[1:])
	default:
		return fmt.Errorf("unknown command %q; %s", args[0], usage)
	}
}

func pluginsMain(log *slog.Logger, args []string) error {
	flags := flag.NewFlagSet("plugins", flag.ContinueOnError)
	source := flags.String("source", "/opt/spiderpool/cni", "directory with the plugins")
	target := flags.String("target", "/host/opt/cni/bin", "the node's directory of CNI plugins, as mounted here")
	if err := parse(flags, args); err != nil {
		return err
	}
	return InstallPlugins(log, *source, *target)
}

func multusMain(ctx context.Context, log *slog.Logger, args []string) error {
	var m Multus
	flags := flag.NewFlagSet("multus", flag.ContinueOnError)
	flags.StringVar(&m.ConfDir, "conf-dir", "/host/etc/cni/net.d", "the node's directory of CNI configurations, as mounted here")
	flags.StringVar(&m.ConfDirOnHost, "conf-dir-on-host", "/etc/cni/net.d", "the same directory as the node sees it")
	flags.StringVar(&m.BinDirOnHost, "bin-dir-on-host", "/opt/cni/bin", "the node's directory of CNI plugins, as the node sees it")
	flags.StringVar(&m.ClusterNetwork, "cluster-network", "", "NetworkAttachmentDefinition of pods that name none; empty: the network of the node's first CNI configuration, else \"default\"")
	flags.StringVar(&m.Namespace, "namespace", "", "namespace of the default NetworkAttachmentDefinitions (required)")
	flags.StringVar(&m.LogLevel, "log-level", "", "log level of Multus: debug, error, verbose or panic")
	flags.StringVar(&m.LogFile, "log-file", "", "log file of Multus on the node")
	flags.StringVar(&m.Credentials, "credentials", "/var/run/secrets/kubernetes.io/serviceaccount", "directory of the service account's ca.crt and token")
	flags.BoolVar(&m.RemoveOnExit, "remove-on-exit", false, "remove the configuration when this process ends")
	flags.DurationVar(&m.Interval, "interval", 10*time.Second, "time between two looks at the files")
	if err := parse(flags, args); err != nil {
		return err
	}
	if m.Namespace == "" {
		return errors.New("--namespace is empty: give the namespace of the installation")
	}
	server, err := APIServerFromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	m.APIServer = server
	return m.Run(ctx, log)
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return nil
}
