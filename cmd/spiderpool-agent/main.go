// Command spiderpool-agent gives the pods of its node their addresses.
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
	flag.StringVar(&o.Kubeconfig, "kubeconfig", "", "kubeconfig file; empty for the service account of the pod")
	flag.StringVar(&o.BindAddress, "bind-address", "", "address that health and metrics are served on; empty for all")
	flag.DurationVar(&o.MinLeaseAge, "min-lease-age", 0, "age from which a lease may be taken back without a DEL; 0 for the default")
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
