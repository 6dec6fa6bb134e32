//go:build apiserver && scale

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

const (
	scaleNodes   = 5000
	poolsOfANode = 4
	scaleMemory  = 40 << 20
)

// TestAgentMemoryInLargeCluster measures the memory of an agent, in its own process and
// with full caches, in a cluster of 5,000 nodes and 20,000 pools, four per node.
//
//	go test -tags 'apiserver scale' -run LargeCluster -v ./internal/agent
func TestAgentMemoryInLargeCluster(t *testing.T) {
	began := time.Now()
	kubetest.Store(t, "minions", scaleNodes, func(i int) client.Object { return largeNode(i) })
	kubetest.Store(t, "spiderpool.spidernet.io/spiderippools", scaleNodes*poolsOfANode, func(i int) client.Object { return largePool(i/poolsOfANode, i%poolsOfANode) })
	t.Logf("%d nodes and %d pools created in %s", scaleNodes, scaleNodes*poolsOfANode, time.Since(began).Round(time.Second))

	launched := launchAgent(t, "node-7", nil)
	for range 10 {
		time.Sleep(3 * time.Second)
		t.Logf("resident: %.1f MiB", launched.memory(t, "VmRSS"))
	}
	if peak := launched.memory(t, "VmHWM"); peak > scaleMemory>>20 {
		t.Errorf("the agent took up to %.1f MiB, want at most %d", peak, scaleMemory>>20)
	} else {
		t.Logf("at most: %.1f MiB", peak)
	}
}

func largeNode(i int) *corev1.Node {
	node := fmt.Sprintf("node-%d", i)
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{
		"kubernetes.io/hostname": node, "topology.kubernetes.io/zone": fmt.Sprintf("zone-%d", i%3),
	}}}
}

// largePool returns the n-th pool of the i-th node.
func largePool(i, n int) *v2beta1.SpiderIPPool {
	node, j := fmt.Sprintf("node-%d", i), i*poolsOfANode+n
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", node, n)},
		Spec: v2beta1.SpiderIPPoolSpec{
			AddressSpace: v2beta1.AddressSpace{
				Subnet: fmt.Sprintf("10.%d.%d.0/24", j>>8, j&255), IPs: []string{fmt.Sprintf("10.%d.%d.16-10.%d.%d.31", j>>8, j&255, j>>8, j&255)},
			},
			NodeName: []string{node}, MultusName: []string{"kube-system/ipvlan-ens5"},
		},
	}
	compile.CompletePool(pool) // as admission does
	return pool
}

// launched is an agent in a process of its own.
type launched struct {
	command *exec.Cmd
	metrics int // port
	began   time.Time
}

// launchAgent starts the agent of a node and waits until it is ready. change may change the configuration. The agent has
// a bpffs of its own.
func launchAgent(t *testing.T, node string, change func(*config.File)) *launched {
	t.Helper()
	dir := t.TempDir()
	file := config.Default()
	file.AgentProcess.SocketPath = filepath.Join(dir, "agent.sock")
	file.AgentProcess.StateDir = filepath.Join(dir, "state")
	file.AgentProcess.HealthPort = kubetest.FreePort(t)
	file.AgentProcess.Metrics = config.Metrics{Enabled: true, Port: kubetest.FreePort(t)}
	file.AgentProcess.TuneSysctl = false
	file.AgentProcess.CRISockets = []string{filepath.Join(dir, "cri.sock")}
	if change != nil {
		change(file)
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/config.yaml", text, 0o600), os.WriteFile(dir+"/kubeconfig", kubetest.Kubeconfig(t, kubetest.Role(t, "spiderpool-agent", "kube-system", node)), 0o600)); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	command := exec.Command("unshare", "--mount", "sh", "-c", `mount -t bpf bpf /sys/fs/bpf && exec "$@"`, "sh",
		kubetest.Program(t, "spiderpool-agent"), "--config", dir+"/config.yaml", "--kubeconfig", dir+"/kubeconfig", "--bind-address", "127.0.0.1")
	command.Env = append(os.Environ(), config.EnvPodName+"=agent", config.EnvPodNamespace+"=default", config.EnvNodeName+"="+node)
	command.Stderr = &output
	began := time.Now()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	a := &launched{command, file.AgentProcess.Metrics.Port, began}
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	kubetest.Eventually(t, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", file.AgentProcess.HealthPort), nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
	return a
}

func (a *launched) stop() {
	_ = a.command.Process.Kill()
	_ = a.command.Wait()
}

// memory returns a line of /proc/PID/status in MiB; see kubetest.Memory.
func (a *launched) memory(t *testing.T, line string) float64 {
	return float64(kubetest.Memory(t, a.command.Process.Pid, line)) / (1 << 20)
}
