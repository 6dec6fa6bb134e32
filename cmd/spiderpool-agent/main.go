// Command spiderpool-agent allocates the addresses of its node's pods.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"spiderpool.dev/spiderpool/internal/agent"
	"spiderpool.dev/spiderpool/internal/config"
)

func main() {
	var o agent.Options
	path := flag.String("config", config.DefaultPath, "configuration file")
	flag.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; empty for the pod's service account")
	flag.StringVar(&o.BindAddress, "bind-address", "", "IP address for health checks and metrics; empty for all")
	flag.DurationVar(&o.MinLeaseAge, "min-lease-age", 0, "minimum age of a lease before it may be reclaimed without a DEL, e.g. 5m; 0 for the default")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *path, o); err != nil {
		log.Fatalln("spiderpool-agent:", err)
	}
}

func run(ctx context.Context, path string, o agent.Options) error {
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	cfg, err := file.Agent(os.Getenv)
	if err != nil {
		return err
	}
	return agent.Run(ctx, cfg, o)
}
