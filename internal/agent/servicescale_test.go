//go:build apiserver && scale

package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

const (
	manyServices  = 10_000
	serviceUpdate = 51
	// serviceMemory is the target of ADR 22: what an agent that translates 10,000 services may take above another.
	serviceMemory = 60 << 20
)

// TestServicesOfLargeCluster measures an agent that translates 10,000 services with 100,000 endpoints, and compares it
// with one that leaves them to kube-proxy. Both are processes of their own, with the kernel's maps; it needs root.
//
//	go test -tags 'apiserver scale' -run ServicesOfLargeCluster -v ./internal/agent
func TestServicesOfLargeCluster(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Services(t, c, manyServices)

	without := launchAgent(t, "node-1", nil)
	time.Sleep(10 * time.Second) // it has nothing to wait for
	base := without.memory(t, "VmHWM")
	t.Logf("an agent without services: %.1f MiB at most, %.1f MiB at last", base, without.memory(t, "VmRSS"))
	without.stop()

	with := launchAgent(t, "node-1", func(file *config.File) {
		file.Service = config.Service{Mode: config.ServiceEBPF, Cgroup: cgroup(t)}
	})
	kubetest.Eventually(t, func(context.Context) error {
		if got := with.metric(t, `spiderpool_service_entries{map="backends"}`); got < manyServices*kubetest.EndpointsPerService {
			return fmt.Errorf("%v backends", got)
		}
		return nil
	})
	t.Logf("all backends are in the kernel %s after the start of the process; CPU time %s", time.Since(with.began).Round(time.Millisecond), with.cpu(t))
	logServiceUpdates(t, namespace, with)
	peak := with.memory(t, "VmHWM")
	t.Logf("an agent with services: %.1f MiB at most, %.1f MiB at last: %.1f MiB more", peak, with.memory(t, "VmRSS"), peak-base)
	if peak-base > serviceMemory>>20 {
		t.Errorf("the services took up to %.1f MiB, want at most %d", peak-base, serviceMemory>>20)
	}
}

// cgroup makes a control group for pods, and returns its path below the mount.
func cgroup(t *testing.T) string {
	t.Helper()
	mount := "/sys/fs/cgroup"
	if st, err := os.Stat(mount + "/unified"); err == nil && st.IsDir() {
		mount += "/unified"
	}
	dir, err := os.MkdirTemp(mount, "spiderpool-scale-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return filepath.Base(dir)
}

// logServiceUpdates replaces one endpoint of some services, and logs the time from the API server's answer to the entry
// in the kernel.
func logServiceUpdates(t *testing.T, namespace string, a *launched) {
	t.Helper()
	c, pins := kubetest.Client(t), fmt.Sprintf("/proc/%d/root/sys/fs/bpf/spiderpool/maps-1/", a.command.Process.Pid)
	frontends, err := ebpf.LoadPinnedMap(pins+"frontends", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer frontends.Close()
	backends, err := ebpf.LoadPinnedMap(pins+"backends", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer backends.Close()
	var took []time.Duration
	for i := range serviceUpdate {
		object := &corev1.Service{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: fmt.Sprintf("service-%d", i)}, object); err != nil {
			t.Fatal(err)
		}
		set := setOf(t, frontends, netip.MustParseAddr(object.Spec.ClusterIP))
		slice := kubetest.EndpointSlice(namespace, i)
		slice.Endpoints[3].Addresses[0] = fmt.Sprintf("10.200.0.%d", i+1)
		if err := c.Update(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for !leadsTo(t, backends, set, netip.MustParseAddr(slice.Endpoints[3].Addresses[0])) {
			if time.Since(began) > time.Minute {
				t.Fatalf("the kernel has not got %s", slice.Endpoints[3].Addresses[0])
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("an update reaches the kernel after %s (median of %d), %s at most", took[len(took)/2], serviceUpdate, took[len(took)-1])
}

// setOf returns the set of the frontend at port 80 (bpf/service.c).
func setOf(t *testing.T, frontends *ebpf.Map, addr netip.Addr) uint32 {
	t.Helper()
	key := struct {
		Addr     [16]byte
		Port     [2]byte
		Protocol uint8
		Zero     uint8
	}{addr.As16(), [2]byte{0, 80}, 6, 0}
	var value struct{ Set, Count, Timeout, Flags uint32 }
	if err := frontends.Lookup(&key, &value); err != nil {
		t.Fatalf("frontend %s: %v", addr, err)
	}
	return value.Set
}

func leadsTo(t *testing.T, backends *ebpf.Map, set uint32, addr netip.Addr) bool {
	t.Helper()
	for i := range uint32(kubetest.EndpointsPerService) {
		var value struct {
			Addr       [16]byte
			Port, Zero [2]byte
		}
		if err := backends.Lookup(&struct{ Set, Index uint32 }{set, i}, &value); err != nil {
			t.Fatalf("set %d slot %d: %v", set, i, err)
		}
		if value.Addr == addr.As16() {
			return true
		}
	}
	return false
}

// cpu returns the time of all processors that the process used (proc_pid_stat(5), fields 14 and 15).
func (a *launched) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// metric returns the value of a metric, 0 if there is none.
func (a *launched) metric(t *testing.T, name string) float64 {
	t.Helper()
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", a.metrics))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	return 0
}
