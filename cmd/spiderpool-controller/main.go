// Command spiderpool-controller runs what a cluster needs once: attachments,
// views of leases, reclaim and admission.
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
	// Not flag.CommandLine: controller-runtime has put a --kubeconfig of its own there.
	flags := flag.NewFlagSet("spiderpool-controller", flag.ExitOnError)
	path := flags.String("config", config.DefaultPath, "configuration file")
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig file; empty for the service account of the pod")
	address := flags.String("bind-address", "", "address that webhooks, health and metrics are served on; empty for all")
	_ = flags.Parse(os.Args[1:]) // exits at an error
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := controller.Main(ctx, *path, *kubeconfig, *address, os.Getenv, os.Stderr); err != nil {
		slog.Error("spiderpool-controller failed", "error", err)
		os.Exit(1)
	}
}
