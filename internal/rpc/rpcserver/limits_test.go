package rpcserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

// panicSocket in the environment makes the test binary a server that panics.
const panicSocket = "RPCSERVER_TEST_PANIC"

// callSocket in the environment makes the test binary a client of that socket.
const callSocket = "RPCSERVER_TEST_CALL"

func TestMain(m *testing.M) {
	if socket := os.Getenv(panicSocket); socket != "" {
		servePanic(socket)
		os.Exit(0)
	}
	if socket := os.Getenv(callSocket); socket != "" {
		if err := (rpc.Client{Socket: socket}).Status(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type panicking struct{ service }

func (*panicking) Status(context.Context) error { panic("half changed") }

// servePanic calls a server whose Status panics.
func servePanic(socket string) {
	listener, err := rpcserver.Listen(socket)
	if err != nil {
		panic(err)
	}
	server := &rpcserver.Server{Service: &panicking{}, AllowedUIDs: self(), Log: slog.New(slog.DiscardHandler)}
	go func() { _ = server.Serve(context.Background(), listener, time.Second) }()
	_ = rpc.Client{Socket: socket}.Status(context.Background())
}

func TestPanicInRequestEndsProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), panicSocket+"="+filepath.Join(t.TempDir(), "s"))
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "POST "+wire.PathStatus+": half changed") {
		t.Errorf("the process ended with %v:\n%s", err, out)
	}
}

// serveOpenly serves on an abstract socket, so that every user can connect, and
// returns its name.
func serveOpenly(t *testing.T, server *rpcserver.Server) string {
	t.Helper()
	server.Log = slog.New(slog.DiscardHandler)
	name := fmt.Sprintf("@rpcserver-test-%d-%s", os.Getpid(), t.Name())
	listener, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener, 5*time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return name
}

// callAs calls the socket as the user, and returns the message of a rejected client.
func callAs(t *testing.T, uid uint32, socket string) (refusal string) {
	t.Helper()
	// Another user may not be able to read the directory of the test binary.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{callSocket + "=" + socket}
	if uid != uint32(os.Getuid()) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err != nil && stderr.Len() == 0 {
		t.Fatalf("call as user %d: %v", uid, err)
	}
	return stderr.String()
}

func TestOnlyRootMayCallByDefault(t *testing.T) {
	s := &service{}
	socket := serveOpenly(t, &rpcserver.Server{Service: s})
	users := []uint32{uint32(os.Getuid())}
	if os.Getuid() == 0 {
		users = []uint32{0, 1, 12345, 65534}
	}
	for _, uid := range users {
		s.got = nil
		refusal := callAs(t, uid, socket)
		if uid == 0 && (refusal != "" || s.got == nil) {
			t.Errorf("root was rejected: %s", refusal)
		}
		if want := fmt.Sprintf("user %d may not call", uid); uid != 0 && (!strings.Contains(refusal, want) || s.got != nil) {
			t.Errorf("user %d: the service got %v, and the client %q; want %q", uid, s.got, refusal, want)
		}
	}
}

func TestTimeoutEndsSlowRequest(t *testing.T) {
	s := &service{hold: make(chan struct{}), arrived: make(chan struct{}, 1)}
	socket := serveOpenly(t, &rpcserver.Server{Service: s, AllowedUIDs: self(), Timeout: time.Millisecond})
	wantCode(t, rpc.Client{Socket: socket}.Status(t.Context()), wire.CodeTryAgainLater, "did not finish in time")
}

func TestTimeoutHasDefault(t *testing.T) {
	s := &service{}
	client, _, _ := start(t, s, self())
	before := time.Now()
	if err := client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, last := before.Add(rpcserver.RequestTimeout), time.Now().Add(rpcserver.RequestTimeout)
	if s.deadline.Before(first) || s.deadline.After(last) {
		t.Errorf("the request had to be done by %s, want between %s and %s", s.deadline, first, last)
	}
}
