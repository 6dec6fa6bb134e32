//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// sandboxes is a container runtime with these sandbox IDs.
type sandboxes struct {
	cri.UnimplementedRuntimeServiceServer
	mu  sync.Mutex
	ids map[string]bool
}

func (s *sandboxes) set(id string, exists bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[id] = exists
}

func (*sandboxes) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "v2.1.4"}, nil
}

func (s *sandboxes) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := &cri.ListPodSandboxResponse{}
	for id, exists := range s.ids {
		if exists {
			answer.Items = append(answer.Items, &cri.PodSandbox{Id: id})
		}
	}
	return answer, nil
}

// runtime serves sandboxes until the test ends. The function makes an agent use it.
func (w *world) runtime(ids ...string) (*sandboxes, func(*config.Agent)) {
	w.Helper()
	s := &sandboxes{ids: map[string]bool{}}
	for _, id := range ids {
		s.set(id, true)
	}
	socket := filepath.Join(w.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		w.Fatal(err)
	}
	server := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	w.Cleanup(server.Stop)
	return s, func(cfg *config.Agent) { cfg.CRISockets = []string{socket} }
}

// Addresses whose DEL was lost are not reclaimed meanwhile; ADD and DEL need no runtime (ADR 8).
func TestSilentRuntimeKeepsAgentReady(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.node("n1"), func(cfg *config.Agent) { cfg.CRISockets = []string{"/nonexistent/cri.sock"} })
	reply, err := a.Runtime(t.Context())
	if err != nil || reply.Socket != "" || !strings.Contains(reply.Fault, "/nonexistent/cri.sock: no such socket; set the Helm value spiderpoolAgent.criSocket") {
		t.Errorf("got %+v, %v", reply, err)
	}
	if err := a.Status(t.Context()); err != nil {
		t.Errorf("the agent is not ready: %v", err)
	}
	if value, err := gauge(a.metrics.registry, "spiderpool_container_runtime_up"); err != nil || value != 0 {
		t.Errorf("the gauge is %v, %v", value, err)
	}
}

func gauge(registry *prometheus.Registry, name string) (float64, error) {
	families, err := registry.Gather()
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue(), err
		}
	}
	return 0, errors.Join(err, fmt.Errorf("no metric %s", name))
}

func TestGCReleasesUnknownSandboxes(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
	_, runtime := w.runtime("c0", "c1", "c3")
	a := w.agent(node, runtime, func(cfg *config.Agent) { cfg.IPAM.GC.Enabled = false })
	named := annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4))
	for i, name := range []string{"valid", "running", "gone", "kept"} {
		pod := w.pod(name, node, named)
		if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, fmt.Sprint("c", i), "eth0")}); err != nil {
			t.Fatal(err)
		}
		if name == "gone" || name == "kept" {
			w.kill(pod)
		}
	}
	err := a.GC(t.Context(), wire.GCRequest{Network: "n", Valid: []wire.AttachmentKey{{ContainerID: "c0", Interface: "eth0"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(w.leases(), "\n")
	if strings.Contains(got, "/gone ") || !strings.Contains(got, "/running ") || !strings.Contains(got, "/valid ") || !strings.Contains(got, "/kept ") {
		t.Errorf("leases after GC:\n%s", got)
	}
}

// The full scan comes every ten minutes; the end of a pod is seen at once.
func TestEndedPodIsReclaimedBeforeScan(t *testing.T) {
	phase := func(to corev1.PodPhase) func(*world, *corev1.Pod) {
		return func(w *world, pod *corev1.Pod) {
			pod.Status.Phase = to
			if err := w.Status().Update(w.Context(), pod); err != nil {
				w.Fatal(err)
			}
		}
	}
	for reason, end := range map[reclaim.Reason]func(*world, *corev1.Pod){
		reclaim.PodGone:      (*world).kill,
		reclaim.PodSucceeded: phase(corev1.PodSucceeded),
		reclaim.PodFailed:    phase(corev1.PodFailed),
	} {
		t.Run(string(reason), func(t *testing.T) {
			w := newWorld(t)
			node := w.node("n1")
			p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
			runtime, ask := w.runtime("c-lives", "c-lost")
			a := w.agent(node, ask)
			named := annotated(names.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4))
			var lost *corev1.Pod
			var address netip.Addr
			for _, name := range []string{"lives", "lost"} {
				pod := w.pod(name, node, named)
				phase(corev1.PodRunning)(w, pod)
				reply, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c-"+name, "eth0")})
				if err != nil {
					t.Fatal(err)
				}
				if name == "lost" {
					end(w, pod)
					lost, address = pod, reply.Addresses[0].Prefix.Addr()
				}
			}
			reclaimed := func() map[string]float64 { return a.counts("spiderpool_ip_gc_counts_total", "reason") }
			if counts := reclaimed(); len(counts) > 0 {
				t.Errorf("reclaimed addresses before any reclaim: %v", counts)
			}
			runtime.set("c-lost", false)
			kubetest.Eventually(t, func(context.Context) error {
				if got := strings.Join(w.leases(), "\n"); strings.Contains(got, "/lost ") || !strings.Contains(got, "/lives ") {
					return fmt.Errorf("leases:\n%s", got)
				}
				return nil
			})
			kubetest.Event(t, w, lost, "ReclaimedIP", fmt.Sprintf("reclaimed %s of pool %s (%s)", address, p4, reason))
			if got, want := reclaimed(), map[string]float64{string(reason): 1}; !maps.Equal(got, want) {
				t.Errorf("addresses counted as taken back, by reason: %v, want %v", got, want)
			}
			if failures := a.counts("spiderpool_ip_gc_failure_counts_total", "reason"); len(failures) > 0 {
				t.Errorf("failures are counted: %v", failures)
			}
		})
	}
}

// counts returns a counter of the agent by the values of its label, without zeros.
func (r *running) counts(metric, label string) map[string]float64 {
	families, err := r.metrics.registry.Gather()
	if err != nil {
		return map[string]float64{err.Error(): 1}
	}
	counts := map[string]float64{}
	for _, family := range families {
		if family.GetName() != metric {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, pair := range m.GetLabel() {
				if pair.GetName() == label && m.GetCounter().GetValue() > 0 {
					counts[pair.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return counts
}
