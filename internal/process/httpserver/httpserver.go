// Package httpserver serves the health checks and the metrics of a process.
//
// The ports are open to every host of the network, or to every process of the node, so
// a connection costs its owner as much as us: it ends when it is idle or slow, and the
// number of connections is limited.
package httpserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// maxConnections is the number of connections at a time; others wait. A kubelet and a
	// few Prometheus servers need one each. A connection costs about 20 kB.
	maxConnections = 64
	headerBytes    = 16 << 10
	defaultIdle    = 5 * time.Second
)

// Server serves a handler on TCP.
type Server struct {
	Handler http.Handler
	Log     *slog.Logger
	// Certificate makes the server speak TLS; see KeyPair.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Idle ends a connection without a request, or after 5 seconds if it had none yet; Slow
	// ends one whose request or response takes longer. 0 means 5 seconds and 30 seconds.
	Idle, Slow time.Duration
	// Connections limits the connections at a time; 0 means 64.
	Connections int
}

// Listen listens on address, e.g. "127.0.0.1:5710", for a limited number of connections.
func (s *Server) Listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve HTTP: %w", err)
	}
	listener = netutil.LimitListener(listener, cmp.Or(s.Connections, maxConnections))
	if s.Certificate != nil {
		// HTTP/1.1 only: one HTTP/2 connection would carry many requests.
		listener = tls.NewListener(listener, &tls.Config{GetCertificate: s.Certificate, MinVersion: tls.VersionTLS12})
	}
	return listener, nil
}

// HTTP returns the server without a listener.
func (s *Server) HTTP() *http.Server {
	idle, slow := cmp.Or(s.Idle, defaultIdle), cmp.Or(s.Slow, 30*time.Second)
	return &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: min(idle, defaultIdle),
		IdleTimeout:       idle,
		ReadTimeout:       slow,
		WriteTimeout:      slow,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          log.New(errorLog{s.Log}, "", 0),
	}
}

// errorLog writes the errors of net/http to a slog.Logger.
type errorLog struct{ log *slog.Logger }

// Write implements io.Writer. A failed TLS handshake gets the level debug: each client can
// cause any number of them.
func (l errorLog) Write(line []byte) (int, error) {
	level := slog.LevelWarn
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, string(bytes.TrimSpace(line)))
	return len(line), nil
}

// Run listens on address and serves until ctx ends.
func (s *Server) Run(ctx context.Context, address string) error {
	listener, err := s.Listen(ctx, address)
	if err != nil {
		return err
	}
	server := s.HTTP()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", address, err)
	}
	<-stopped
	return nil
}
