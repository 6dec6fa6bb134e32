// Command spiderpool-init creates the default objects at installation and cleans
// up after an uninstallation.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"spiderpool.dev/spiderpool/internal/install"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := install.Main(ctx, os.Args[1:]); err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("spiderpool-init failed", "error", err)
		os.Exit(1)
	}
}
