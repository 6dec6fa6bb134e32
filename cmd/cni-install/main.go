// Command cni-install installs the CNI plugins and the configuration of Multus on
// the node of its pod.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"spiderpool.dev/spiderpool/internal/cniinstall"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := cniinstall.Main(ctx, log, os.Args[1:]); err != nil {
		log.Error("cni-install failed", "error", err)
		os.Exit(1)
	}
}
