//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/wire"
)

// sandboxes is a container runtime that has the sandboxes with these IDs.
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

// runtime serves sandboxes until the test ends; the function lets an agent ask there.
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

func TestGCReleasesWhatNeitherRuntimeNorClusterKnows(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
	_, runtime := w.runtime("c0", "c1", "c3")
	a := w.agent(node, runtime, func(cfg *config.Agent) { cfg.IPAM.GC.Enabled = false })
	named := annotated(v2beta1.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4))
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
func TestAddressOfAPodThatEndedWithoutADelIsTakenBackWithoutWaitingForTheScan(t *testing.T) {
	w := newWorld(t)
	node := w.node("n1")
	p4 := w.pool("v4", v4("10.1.0.10-10.1.0.40"))
	runtime, ask := w.runtime("c-lives", "c-lost")
	a := w.agent(node, ask)
	named := annotated(v2beta1.AnnotationPodIPPool, fmt.Sprintf(`{"ipv4":[%q]}`, p4))
	for _, name := range []string{"lives", "lost"} {
		pod := w.pod(name, node, named)
		if _, err := a.Add(t.Context(), wire.AddRequest{Attachment: attachment(pod, "c-"+name, "eth0")}); err != nil {
			t.Fatal(err)
		}
		if name == "lost" {
			w.kill(pod)
		}
	}
	runtime.set("c-lost", false)
	kubetest.Eventually(t, func(context.Context) error {
		if got := strings.Join(w.leases(), "\n"); strings.Contains(got, "/lost ") || !strings.Contains(got, "/lives ") {
			return fmt.Errorf("leases:\n%s", got)
		}
		return nil
	})
}
