//go:build apiserver

package criclient_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestContainerdKeepsContract runs the containerd of the lab, as root.
func TestContainerdKeepsContract(t *testing.T) {
	program := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "containerd")
	text, err := exec.CommandContext(t.Context(), program, "--version").Output()
	fields := strings.Fields(string(text)) // containerd github.com/containerd/containerd/v2 v2.4.2 REVISION
	if err != nil || len(fields) < 3 {
		t.Fatalf("containerd --version: %q, %v; make lab-tools builds it", text, err)
	}
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "c.sock"), filepath.Join(dir, "config.toml")
	settings := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	contract(t, socket, "containerd://"+strings.TrimPrefix(fields[2], "v"), func() func() { return startContainerd(t, program, config, socket) })
}

func startContainerd(t *testing.T, program, config, socket string) (stop func()) {
	t.Helper()
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--config", config, "--log-level", "error")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("containerd has no socket %s after a minute", socket)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // the signal is its error
	}
}
