//go:build apiserver && scale

package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

const (
	manyServices = 10_000
	updates      = 51
	// watchMemory guards the measured peak of 110.5 MiB, with the entries as text. The target of ADR 22 is lower.
	watchMemory = 128 << 20
)

// TestWatchOfLargeCluster measures "service watch", which keeps the state that an agent keeps, as a process of its own.
//
//	go test -tags 'apiserver scale' -run WatchOfLargeCluster -v ./internal/cli
func TestWatchOfLargeCluster(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Services(t, c, manyServices)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, kubetest.Kubeconfig(t, kubetest.Role(t, "spiderpool-agent", "kube-system", "node-1")), 0o600); err != nil {
		t.Fatal(err)
	}
	program := kubetest.Program(t, "spiderpoolctl")
	began := time.Now()
	cmd := exec.CommandContext(t.Context(), program, "service", "watch", "--node", "node-1", "--kubeconfig", kubeconfig)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	for slots := 0; slots < manyServices*kubetest.EndpointsPerService && lines.Scan(); {
		if strings.Contains(lines.Text(), " slot ") {
			slots++
		}
	}
	t.Logf("first entries after %s, with %.1f MiB at most", time.Since(began).Round(time.Millisecond), mebibytes(t, cmd, "VmHWM"))
	logUpdates(t, namespace, lines)
	peak := mebibytes(t, cmd, "VmHWM")
	t.Logf("%.1f MiB resident, at most %.1f MiB", mebibytes(t, cmd, "VmRSS"), peak)
	if peak > watchMemory>>20 {
		t.Errorf("the process took up to %.1f MiB, want at most %d", peak, watchMemory>>20)
	}
}

func mebibytes(t *testing.T, cmd *exec.Cmd, line string) float64 {
	return float64(kubetest.Memory(t, cmd.Process.Pid, line)) / (1 << 20)
}

// logUpdates replaces one endpoint of some services, and logs the time from the API server's answer to the entry.
func logUpdates(t *testing.T, namespace string, lines *bufio.Scanner) {
	c := kubetest.Client(t)
	var took []time.Duration
	for i := range updates {
		slice := kubetest.EndpointSlice(namespace, i)
		slice.Endpoints[3].Addresses[0] = fmt.Sprintf("10.200.0.%d", i+1)
		if err := c.Update(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for !strings.Contains(lines.Text(), slice.Endpoints[3].Addresses[0]+":8080") {
			if !lines.Scan() {
				t.Fatal("the program ended", lines.Err())
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("an update reaches the entries after %s (median of %d), %s at most", took[len(took)/2], updates, took[len(took)-1])
}
