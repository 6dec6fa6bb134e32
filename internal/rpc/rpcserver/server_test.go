package rpcserver_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/rpc"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

// service records the requests and returns the replies that the test set.
type service struct {
	got         any
	reply       wire.AddReply
	coordinator wire.CoordinatorReply
	runtime     wire.RuntimeReply
	err         error
	// hold, if set, blocks a request until it is closed or the request ends.
	hold    chan struct{}
	arrived chan struct{}
	// deadline is that of the last request.
	deadline time.Time
}

func (s *service) serve(ctx context.Context, req any) error {
	s.got = req
	s.deadline, _ = ctx.Deadline()
	if s.hold != nil {
		s.arrived <- struct{}{}
		select {
		case <-s.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.err
}

func (s *service) Add(ctx context.Context, req wire.AddRequest) (wire.AddReply, error) {
	return s.reply, s.serve(ctx, req)
}
func (s *service) Delete(ctx context.Context, req wire.DeleteRequest) error { return s.serve(ctx, req) }
func (s *service) Check(ctx context.Context, req wire.CheckRequest) error   { return s.serve(ctx, req) }
func (s *service) GC(ctx context.Context, req wire.GCRequest) error         { return s.serve(ctx, req) }
func (s *service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	return s.serve(ctx, req)
}
func (s *service) Status(ctx context.Context) error { return s.serve(ctx, wire.Empty{}) }
func (s *service) Runtime(ctx context.Context) (wire.RuntimeReply, error) {
	return s.runtime, s.serve(ctx, wire.Empty{})
}
func (s *service) Coordinator(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	return s.coordinator, s.serve(ctx, req)
}

// start serves s until the test ends and returns a client for it, the socket
// and a function that stops the server and returns what Serve returned.
func start(t *testing.T, s *service, allowed []uint32) (rpc.Client, string, func() error) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "agent.sock")
	listener, err := rpcserver.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	server := rpcserver.Server{Service: s, Log: slog.New(slog.DiscardHandler), AllowedUIDs: allowed}
	go func() { done <- server.Serve(ctx, listener, 5*time.Second) }()
	stop := func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return rpc.Client{Socket: socket}, socket, stop
}

func self() []uint32 { return []uint32{uint32(os.Getuid())} }

var attachment = wire.Attachment{
	ContainerID: "c1", NetNS: "/run/netns/x", Interface: "eth0", PodNamespace: "default", PodName: "a", PodUID: "u1",
}

func TestRoundTripKeepsRequestsAndReplies(t *testing.T) {
	s := &service{
		reply: wire.AddReply{
			Addresses: []wire.Address{{
				Prefix:  netip.MustParsePrefix("192.0.2.7/24"),
				Gateway: netip.MustParseAddr("192.0.2.1"),
				Pool:    "p",
			}},
			Routes: []inet.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")}},
			DNS:    wire.DNS{Nameservers: []string{"192.0.2.53"}},
		},
		coordinator: wire.CoordinatorReply{PodDefaultRouteNIC: "net1"},
		runtime:     wire.RuntimeReply{Socket: "/run/a.sock", Fault: "silent"},
	}
	client, _, _ := start(t, s, self())
	ctx := t.Context()

	add := wire.AddRequest{Attachment: attachment, Network: "n", DefaultIPv4Pools: []string{"p"}}
	coordinator := wire.CoordinatorRequest{Attachment: attachment}
	remove := wire.DeleteRequest{Attachment: attachment}
	check := wire.CheckRequest{Attachment: attachment, Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}
	gc := wire.GCRequest{Network: "n", Valid: []wire.AttachmentKey{{ContainerID: "c", Interface: "eth0"}}}
	conflict := wire.ConflictRequest{Attachment: attachment, Address: netip.MustParseAddr("192.0.2.7"), MAC: "02:00:00:00:00:01"}
	for name, c := range map[string]struct {
		request, reply any
		call           func() (any, error)
	}{
		"add":         {add, s.reply, func() (any, error) { return client.Add(ctx, add) }},
		"coordinator": {coordinator, s.coordinator, func() (any, error) { return client.Coordinator(ctx, coordinator) }},
		"delete":      {remove, nil, func() (any, error) { return nil, client.Delete(ctx, remove) }},
		"check":       {check, nil, func() (any, error) { return nil, client.Check(ctx, check) }},
		"gc":          {gc, nil, func() (any, error) { return nil, client.GC(ctx, gc) }},
		"conflict":    {conflict, nil, func() (any, error) { return nil, client.Conflict(ctx, conflict) }},
		"status":      {wire.Empty{}, nil, func() (any, error) { return nil, client.Status(ctx) }},
		"runtime":     {wire.Empty{}, s.runtime, func() (any, error) { return client.Runtime(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := c.call()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.request, s.got, values); diff != "" {
				t.Errorf("request: sent (-), received (+):\n%s", diff)
			}
			if diff := cmp.Diff(c.reply, reply, values); diff != "" {
				t.Errorf("reply: sent (-), received (+):\n%s", diff)
			}
		})
	}
}

func TestImpossibleAttachmentIsRefused(t *testing.T) {
	s := &service{}
	client, _, _ := start(t, s, self())
	ctx, bad := t.Context(), attachment
	bad.Interface = strings.Repeat("x", 250_000)
	for name, call := range map[string]func() error{
		"add":         func() error { _, err := client.Add(ctx, wire.AddRequest{Attachment: bad}); return err },
		"coordinator": func() error { _, err := client.Coordinator(ctx, wire.CoordinatorRequest{Attachment: bad}); return err },
		"check":       func() error { return client.Check(ctx, wire.CheckRequest{Attachment: bad}) },
		"conflict":    func() error { return client.Conflict(ctx, wire.ConflictRequest{Attachment: bad}) },
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, call(), wire.CodeInvalidEnvironment, "is longer than 15 bytes")
			if s.got != nil {
				t.Errorf("the service got %.100v", s.got)
			}
		})
	}
	if err := client.Delete(ctx, wire.DeleteRequest{Attachment: bad}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// values compares addresses and prefixes as values.
var values = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func wantCode(t *testing.T, err error, code uint, part string) {
	t.Helper()
	var failure *wire.Error
	if !errors.As(err, &failure) || failure.Code != code || !strings.Contains(failure.Error(), part) {
		t.Errorf("got %v, want code %d and %q", err, code, part)
	}
}

func TestErrorsKeepTheirCodeAndDetails(t *testing.T) {
	s := &service{err: &wire.Error{Code: wire.CodeNoAddress, Msg: "no address", Details: "pool p: disabled"}}
	client, _, _ := start(t, s, self())
	wantCode(t, client.Delete(t.Context(), wire.DeleteRequest{}), wire.CodeNoAddress, "no address: pool p: disabled")

	s.err = errors.New("boom")
	wantCode(t, client.Status(t.Context()), wire.CodeInternal, "boom")
}

func TestMissingAgentMeansTryAgainLater(t *testing.T) {
	client := rpc.Client{Socket: filepath.Join(t.TempDir(), "none.sock")}
	wantCode(t, client.Status(t.Context()), wire.CodeTryAgainLater, "none.sock")
}

func TestSlowAgentMeansTryAgainLater(t *testing.T) {
	s := &service{hold: make(chan struct{}), arrived: make(chan struct{}, 1)}
	client, _, _ := start(t, s, self())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-s.arrived; cancel() }()
	wantCode(t, client.Status(ctx), wire.CodeTryAgainLater, "agent.sock")
	close(s.hold)
}

func TestTruncatedReplyMeansTryAgainLater(t *testing.T) {
	for _, reply := range []string{"", "HTTP/1.0 200 OK\r\nContent-Length: 50\r\n\r\n{}", "rubbish\r\n\r\n{}"} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 4096)); err == nil {
				_, _ = io.WriteString(conn, reply)
			}
		}()
		_, err = rpc.Client{Socket: socket}.Add(t.Context(), wire.AddRequest{})
		wantCode(t, err, wire.CodeTryAgainLater, "")
		_ = listener.Close()
	}
}

func TestOtherUsersAreRejected(t *testing.T) {
	client, _, _ := start(t, &service{}, []uint32{uint32(os.Getuid()) + 1})
	wantCode(t, client.Status(t.Context()), wire.CodeRefused, "may not call")
}

func TestSocketBelongsToItsOwner(t *testing.T) {
	_, socket, _ := start(t, &service{}, self())
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, err %v", info.Mode(), err)
	}
}

func TestListenReplacesDeadAgentsSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	dead, err := rpcserver.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close() // leaves the file, as a killed agent does
	live, err := rpcserver.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = live.Close()
}

// raw sends a request that rpc.Client would never send.
func raw(t *testing.T, socket, path, body string) (int, string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Post("http://agent"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

func TestBadRequestsAreRejected(t *testing.T) {
	_, socket, _ := start(t, &service{}, self())
	long := `{"podName":"` + strings.Repeat("x", wire.MaxRequestBytes) + `"}`
	for name, c := range map[string]struct {
		path, body string
		status     int
		part       string
	}{
		"not JSON":     {wire.PathAdd, "{", http.StatusBadRequest, "cannot decode"},
		"wrong type":   {wire.PathAdd, `{"podName": 1}`, http.StatusBadRequest, "podName"},
		"too long":     {wire.PathAdd, long, http.StatusBadRequest, "too large"},
		"unknown path": {"/v9/ipam", "{}", http.StatusNotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if status, content := raw(t, socket, c.path, c.body); status != c.status || !strings.Contains(content, c.part) {
				t.Errorf("got %d %s", status, content)
			}
		})
	}
}

func TestStoppingServerFinishesRequests(t *testing.T) {
	s := &service{hold: make(chan struct{}), arrived: make(chan struct{}, 1)}
	client, _, stop := start(t, s, self())
	outcome := make(chan error, 1)
	go func() { outcome <- client.Status(context.Background()) }()
	<-s.arrived
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	close(s.hold)
	if err := <-outcome; err != nil {
		t.Errorf("the request failed: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
