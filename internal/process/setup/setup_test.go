package setup

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/process"
)

const kubeconfig = `{"clusters": [{"name": "a", "cluster": {"server": "https://192.0.2.1:6443"}}],
  "contexts": [{"name": "a", "context": {"cluster": "a"}}], "current-context": "a"}`

// load writes the two files, and loads them with the flags of a command.
func load(t *testing.T, configuration string, take func(*config.File) (slog.Level, error)) (*process.Env, *rest.Config, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"config.yaml": "apiVersion: " + config.APIVersion + "\nkind: " + config.Kind + "\n" + configuration, "kubeconfig": kubeconfig} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := &cobra.Command{}
	flags := AddFlags(cmd, "IP address")
	err := cmd.ParseFlags([]string{"--config", filepath.Join(dir, "config.yaml"), "--kubeconfig", filepath.Join(dir, "kubeconfig"), "--bind-address", "127.0.0.1"})
	if err != nil || flags.BindAddress != "127.0.0.1" {
		t.Fatalf("address %q, %v", flags.BindAddress, err)
	}
	env := process.NewEnv(io.Discard, os.Getenv)
	server, err := flags.Load(env, take)
	return env, server, err
}

func TestLoadSetsLevelAndServer(t *testing.T) {
	env, server, err := load(t, "agent: {logLevel: debug}", func(file *config.File) (slog.Level, error) { return file.AgentProcess.LogLevel, nil })
	if err != nil {
		t.Fatal(err)
	}
	if env.Level.Level() != slog.LevelDebug || server.Host != "https://192.0.2.1:6443" {
		t.Errorf("level %s, server %s", env.Level.Level(), server.Host)
	}
}

func TestLoadReturnsErrors(t *testing.T) {
	refuse := func(*config.File) (slog.Level, error) {
		return 0, errors.New("SPIDERPOOL_NODE_NAME is not set")
	}
	for configuration, want := range map[string]string{"agnet: {}": "agnet", "": "SPIDERPOOL_NODE_NAME"} {
		if _, _, err := load(t, configuration, refuse); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v does not name %s", configuration, err, want)
		}
	}
}
