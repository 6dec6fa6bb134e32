package criclient_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"spiderpool.dev/spiderpool/internal/agent/criclient"
	"spiderpool.dev/spiderpool/internal/ipam"
)

// server is a container runtime with the sandboxes.
type server struct {
	cri.UnimplementedRuntimeServiceServer
	sandboxes []string
	err       error
	version   string // "" is v2.1.4
}

func (s *server) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	answer := &cri.ListPodSandboxResponse{}
	for i, id := range s.sandboxes {
		// A stopped sandbox may still have its network.
		state := cri.PodSandboxState(i % 2)
		answer.Items = append(answer.Items, &cri.PodSandbox{Id: id, State: state, Metadata: &cri.PodSandboxMetadata{Uid: "uid of " + id}})
	}
	return answer, s.err
}

func (s *server) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "containerd", RuntimeVersion: cmp.Or(s.version, "v2.1.4")}, s.err
}

func serve(t *testing.T, s *server) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(g, s)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	return socket
}

func holds(ids ...string) func(string) bool {
	return func(id string) bool { return slices.Contains(ids, id) }
}

func TestListedPodEarnsTrust(t *testing.T) {
	s := &server{sandboxes: []string{"other"}}
	trusted := filepath.Join(t.TempDir(), "runtime")
	r := &criclient.Runtime{Sockets: []string{"/nonexistent", serve(t, s)}, Trusted: trusted, Reported: reported("containerd://2.1.4"), Holds: holds("mine")}
	if ids, err := r.Sandboxes(t.Context()); !errors.Is(err, ipam.ErrNotReady) {
		t.Fatalf("an untrusted runtime answered: %v, %v", ids, err)
	}
	s.sandboxes = []string{"other", "mine"}
	ids, err := r.Sandboxes(t.Context())
	if err != nil || ids["mine"] != "uid of mine" || ids["other"] != "uid of other" || len(ids) != 2 {
		t.Fatalf("got %v, %v", ids, err)
	}
	// The runtime stays trusted after its last pod has gone, also by the next agent.
	s.sandboxes = nil
	next := &criclient.Runtime{Sockets: r.Sockets, Trusted: trusted, Reported: reported("containerd://2.1.4"), Holds: holds("mine")}
	if ids, err := next.Sandboxes(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("got %v, %v", ids, err)
	}
	// Another runtime is not trusted.
	other := &criclient.Runtime{Sockets: []string{serve(t, &server{})}, Trusted: trusted, Reported: reported("containerd://2.1.4"), Holds: holds("mine")}
	if ids, err := other.Sandboxes(t.Context()); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("another runtime answered: %v, %v", ids, err)
	}
}

func TestRuntimeMustMatchKubelet(t *testing.T) {
	socket, trusted := serve(t, &server{sandboxes: []string{"mine"}}), filepath.Join(t.TempDir(), "runtime")
	for name, matches := range map[string]bool{"containerd://2.1.4": true, "": true, "cri-o://1.36.0": false, "containerd://2.1.4-k3s1": false} {
		t.Run("kubelet reports "+name, func(t *testing.T) {
			r := &criclient.Runtime{Sockets: []string{socket}, Trusted: trusted, Reported: reported(name), Holds: holds("mine")}
			if ids, err := r.Sandboxes(t.Context()); (err == nil) != matches || !matches && !errors.Is(err, ipam.ErrNotReady) {
				t.Errorf("got %v, %v", ids, err)
			}
		})
	}
	unread := func(context.Context) (string, error) { return "", errors.New("no API server") }
	r := &criclient.Runtime{Sockets: []string{socket}, Trusted: trusted, Reported: unread, Holds: holds("mine")}
	if ids, err := r.Sandboxes(t.Context()); err == nil {
		t.Errorf("without the name from the kubelet, got %v", ids)
	}
}

func TestVersionsMatchKubeletsFormat(t *testing.T) {
	for version, name := range map[string]string{
		"2.4.2+unknown": "containerd://2.4.2+unknown", "v2.1.4-k3s1": "containerd://2.1.4-k3s1", "1.6.20~ds1": "containerd://1.6.20", "new": "containerd://Unknown",
	} {
		t.Run(version, func(t *testing.T) {
			r := &criclient.Runtime{
				Sockets: []string{serve(t, &server{sandboxes: []string{"mine"}, version: version})},
				Trusted: filepath.Join(t.TempDir(), "runtime"), Reported: reported(name), Holds: holds("mine"),
			}
			if _, err := r.Sandboxes(t.Context()); err != nil {
				t.Errorf("the kubelet reports %s: %v", name, err)
			}
		})
	}
}

func reported(name string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return name, nil }
}

func TestMissingAndFailingRuntimesAreErrors(t *testing.T) {
	r := &criclient.Runtime{Sockets: []string{"/nonexistent"}, Trusted: filepath.Join(t.TempDir(), "runtime"), Reported: reported("containerd://2.1.4"), Holds: holds()}
	if _, err := r.Sandboxes(t.Context()); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("got %v", err)
	}
	r.Sockets = []string{serve(t, &server{err: errors.New("starting")})}
	if _, err := r.Sandboxes(t.Context()); err == nil {
		t.Error("no error from a failing runtime")
	}
}
