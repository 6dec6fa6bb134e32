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
	path := flag.String("config", config.DefaultPath, "configuration file")
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file; empty for the service account of the pod")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := controller.Main(ctx, *path, *kubeconfig, os.Getenv, os.Stderr); err != nil {
		slog.Error("spiderpool-controller failed", "error", err)
		os.Exit(1)
	}
}
