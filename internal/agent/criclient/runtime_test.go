package criclient_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	serveAt(t, socket, s)
	return socket
}

func serveAt(t *testing.T, socket string, s *server) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(g, s)
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	return g.Stop
}

// ask asks the sockets on behalf of a node whose kubelet reports containerd 2.1.4.
func ask(t *testing.T, held func(time.Duration) map[string]bool, sockets ...string) *criclient.Runtime {
	t.Helper()
	return &criclient.Runtime{Sockets: sockets, Trusted: filepath.Join(t.TempDir(), "runtime"), Reported: reported("containerd://2.1.4"), Held: held}
}

func TestKubeletsRuntimeIsFound(t *testing.T) {
	mine := &server{sandboxes: []string{"mine"}}
	stale := filepath.Join(t.TempDir(), "stale.sock") // of a runtime that no longer runs
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := errors.Join(listener.Close(), os.WriteFile(stale+".file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]string{
		"missing":                  "/nonexistent/containerd.sock",
		"stale":                    stale,
		"file":                     stale + ".file",
		"other version":            serve(t, &server{version: "v1.7.0", sandboxes: []string{"mine"}}),
		"same version, no sandbox": serve(t, &server{}),
		"failing":                  serve(t, &server{err: errors.New("no CRI here")}),
	} {
		t.Run(name, func(t *testing.T) {
			if ids, err := ask(t, holds("mine"), before, serve(t, mine)).Sandboxes(t.Context()); err != nil || len(ids) != 1 {
				t.Errorf("got %v, %v", ids, err)
			}
		})
	}
}

func TestLateAndRestartedRuntimesAnswer(t *testing.T) {
	mine, socket := &server{sandboxes: []string{"mine"}}, filepath.Join(t.TempDir(), "cri.sock")
	r := ask(t, holds("mine"), "/nonexistent", socket)
	var last error
	r.Asked = func(_ string, fault error) { last = fault }
	for range 2 {
		if _, err := r.Sandboxes(t.Context()); err == nil || last == nil {
			t.Fatalf("without a runtime: %v, reported %v", err, last)
		}
		stop := serveAt(t, socket, mine)
		if _, err := r.Sandboxes(t.Context()); err != nil || last != nil {
			t.Fatalf("with a runtime: %v, reported %v", err, last)
		}
		stop() // removes the socket
	}
}

func TestFaultNamesSocketsAndWayOut(t *testing.T) {
	other := serve(t, &server{version: "v1.7.0"})
	_, err := ask(t, holds("mine"), "/nonexistent", other).Sandboxes(t.Context())
	for _, want := range []string{
		"/nonexistent: no such socket", other + ": this runtime is containerd://1.7.0, but the kubelet uses containerd://2.1.4",
		"set the Helm value spiderpoolAgent.criSocket",
	} {
		if !errors.Is(err, ipam.ErrNotReady) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// A node without leases has nothing that could prove its runtime, and nothing to reclaim.
func TestMissingProofMattersWithLeases(t *testing.T) {
	for name, tc := range map[string]struct {
		held  func(time.Duration) map[string]bool
		asked string
	}{
		"no lease": {holds(), "ok"},
		"young lease": {func(age time.Duration) map[string]bool {
			if age > 0 {
				return nil
			}
			return holds("young")(0)
		}, ""},
		"settled lease": {holds("mine"), "fault"},
	} {
		t.Run(name, func(t *testing.T) {
			r, asked := ask(t, tc.held, serve(t, &server{sandboxes: []string{"other"}})), ""
			r.Asked = func(_ string, fault error) {
				if asked = "ok"; fault != nil {
					asked = "fault"
				}
			}
			if ids, err := r.Sandboxes(t.Context()); err == nil {
				t.Errorf("an unproven runtime answered %v", ids)
			}
			if asked != tc.asked {
				t.Errorf("reported %q, want %q", asked, tc.asked)
			}
		})
	}
}

func TestAbandonedQuestionIsNoFault(t *testing.T) {
	r := ask(t, holds("mine"), "/nonexistent")
	r.Asked = func(_ string, fault error) { t.Errorf("reported %v", fault) }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Sandboxes(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// holds is Runtime.Held of a node with leases of these sandboxes, all settled.
func holds(ids ...string) func(time.Duration) map[string]bool {
	return func(time.Duration) map[string]bool {
		held := map[string]bool{}
		for _, id := range ids {
			held[id] = true
		}
		return held
	}
}

func TestListedPodEarnsTrust(t *testing.T) {
	s := &server{sandboxes: []string{"other"}}
	trusted := filepath.Join(t.TempDir(), "runtime")
	r := &criclient.Runtime{Sockets: []string{"/nonexistent", serve(t, s)}, Trusted: trusted, Reported: reported("containerd://2.1.4"), Held: holds("mine")}
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
	next := &criclient.Runtime{Sockets: r.Sockets, Trusted: trusted, Reported: reported("containerd://2.1.4"), Held: holds("mine")}
	if ids, err := next.Sandboxes(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("got %v, %v", ids, err)
	}
	// Another runtime is not trusted.
	other := &criclient.Runtime{Sockets: []string{serve(t, &server{})}, Trusted: trusted, Reported: reported("containerd://2.1.4"), Held: holds("mine")}
	if ids, err := other.Sandboxes(t.Context()); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("another runtime answered: %v, %v", ids, err)
	}
}

func TestRuntimeMustMatchKubelet(t *testing.T) {
	socket, trusted := serve(t, &server{sandboxes: []string{"mine"}}), filepath.Join(t.TempDir(), "runtime")
	for name, matches := range map[string]bool{"containerd://2.1.4": true, "": true, "cri-o://1.36.0": false, "containerd://2.1.4-k3s1": false} {
		t.Run("kubelet reports "+name, func(t *testing.T) {
			r := &criclient.Runtime{Sockets: []string{socket}, Trusted: trusted, Reported: reported(name), Held: holds("mine")}
			if ids, err := r.Sandboxes(t.Context()); (err == nil) != matches || !matches && !errors.Is(err, ipam.ErrNotReady) {
				t.Errorf("got %v, %v", ids, err)
			}
		})
	}
	unread := func(context.Context) (string, error) { return "", errors.New("no API server") }
	r := &criclient.Runtime{Sockets: []string{socket}, Trusted: trusted, Reported: unread, Held: holds("mine")}
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
				Trusted: filepath.Join(t.TempDir(), "runtime"), Reported: reported(name), Held: holds("mine"),
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
	r := &criclient.Runtime{Sockets: []string{"/nonexistent"}, Trusted: filepath.Join(t.TempDir(), "runtime"), Reported: reported("containerd://2.1.4"), Held: holds()}
	if _, err := r.Sandboxes(t.Context()); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("got %v", err)
	}
	r.Sockets = []string{serve(t, &server{err: errors.New("starting")})}
	if _, err := r.Sandboxes(t.Context()); err == nil {
		t.Error("no error from a failing runtime")
	}
}
