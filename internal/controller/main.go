package controller

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"spiderpool.dev/spiderpool/internal/config"
)

// Main runs the program: it reads the configuration file at path and the
// environment by getenv, reaches the API server as the file at kubeconfig says,
// or as the service account of its pod where that is empty, serves on address, on
// all where that is empty, and logs to out.
func Main(ctx context.Context, path, kubeconfig, address string, getenv func(string) string, out io.Writer) error {
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	cfg, err := file.Controller(getenv)
	if err != nil {
		return err
	}
	restConfig, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: cfg.LogLevel}))
	return Run(ctx, cfg, Options{RestConfig: restConfig, BindAddress: address, Log: log})
}

func connect(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		restConfig, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("reach the API server as the pod's service account: %w", err)
		}
		return restConfig, nil
	}
	restConfig, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reach the API server by %s: %w", kubeconfig, err)
	}
	return restConfig, nil
}
