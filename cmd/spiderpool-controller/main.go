// Command spiderpool-controller runs the cluster-wide tasks: network attachments,
// status of custom resources, reclaim and admission.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/controller"
)

func main() {
	// Do not use flag.CommandLine: controller-runtime registers its own --kubeconfig there.
	flags := flag.NewFlagSet("spiderpool-controller", flag.ExitOnError)
	path := flags.String("config", config.DefaultPath, "configuration file")
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig file; empty for the pod's service account")
	address := flags.String("bind-address", "", "IP address for webhooks, health checks and metrics; empty for all")
	_ = flags.Parse(os.Args[1:]) // exits on error
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := controller.Main(ctx, *path, *kubeconfig, *address, os.Getenv, os.Stderr); err != nil {
		slog.Error("spiderpool-controller failed", "error", err)
		os.Exit(1)
	}
}
