package httpserver_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/process/httpserver"
)

// serve runs a server that answers "ok" and returns its address.
func serve(t *testing.T, s httpserver.Server) string {
	t.Helper()
	s.Log = slog.New(slog.DiscardHandler)
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	listener, err := s.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, ended := s.HTTP(), make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// untilClosed reads until the server closes the connection.
func untilClosed(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the connection is still open")
	}
	return nil
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	const idle = 50 * time.Millisecond
	for name, test := range map[string]struct {
		server httpserver.Server
		sent   string
	}{
		"silent":         {httpserver.Server{Idle: idle}, ""},
		"half a header":  {httpserver.Server{Idle: idle}, "GET / HTTP/1.1\r\nHost:"},
		"kept alive":     {httpserver.Server{Idle: idle}, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
		"body that ends": {httpserver.Server{Slow: idle}, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, serve(t, test.server))
			if _, err := io.WriteString(conn, test.sent); err != nil {
				t.Fatal(err)
			}
			if err := untilClosed(conn); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	address := serve(t, httpserver.Server{Connections: 1, Idle: time.Hour})
	first := dial(t, address)
	if _, err := io.WriteString(first, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// The kernel accepts the second connection, the server does not.
	second := dial(t, address)
	if _, err := io.WriteString(second, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := second.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := second.Read(make([]byte, 1)); err == nil {
		t.Fatalf("read %d bytes from the second connection", n)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(second); err != nil || len(answer) == 0 {
		t.Errorf("after the first closed: %q, %v", answer, err)
	}
}

func TestServerEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := httpserver.Server{Handler: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}
	if err := s.Run(ctx, "127.0.0.1:0"); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := s.Run(t.Context(), "nonsense"); err == nil {
		t.Error("a server listens on nonsense")
	}
}
