// Package process starts the programs of Spiderpool: log, signals and exit code.
//
//	func main() { process.Main(agent.Command) }
//
// A program is a cobra command. It ends when its context does, and returns an error
// only if it failed; Main then logs the error and exits with 1. The package links no
// Kubernetes, because cni-install must stay small.
package process

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Env is the environment of a program.
type Env struct {
	// Log writes JSON, one line per record. The key of an error is "err"; the key of
	// a pod is "pod", with "namespace/name".
	Log *slog.Logger
	// Level is the level of Log, info at first. Set it after reading the configuration.
	Level *slog.LevelVar
	// Getenv returns an environment variable, or "" if it is not set.
	Getenv func(string) string
}

// NewEnv returns an environment with a log that goes to out.
func NewEnv(out io.Writer, getenv func(string) string) *Env {
	level := new(slog.LevelVar)
	return &Env{Log: slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level})), Level: level, Getenv: getenv}
}

// Main runs the program that command returns, and ends the process. SIGINT and
// SIGTERM end the context of the command.
func Main(command func(*Env) *cobra.Command) {
	ctx, stop := UntilSignal()
	defer stop()
	env := NewEnv(os.Stderr, os.Getenv)
	program := command(env)
	program.SilenceUsage, program.SilenceErrors = true, true
	if err := program.ExecuteContext(ctx); err != nil {
		env.Log.Error(program.Name()+" failed", "err", err)
		os.Exit(1)
	}
}

// UntilSignal returns a context that SIGINT and SIGTERM end. A second signal ends the process.
func UntilSignal() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
