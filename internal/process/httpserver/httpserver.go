// Package httpserver serves the health checks and the metrics of a process.
//
// The ports are open to every host of the network, or to every process of the node, so
// a connection costs its owner as much as us: it ends when it is idle or slow, and the
// number of connections is limited.
package httpserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
)

// Server serves a handler on TCP.
type Server struct {
	Handler http.Handler
	Log     *slog.Logger
	// Idle ends a connection without a request; Slow ends one whose request or response
	// takes longer. 0 means 5 seconds and 30 seconds.
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
	return netutil.LimitListener(listener, cmp.Or(s.Connections, maxConnections)), nil
}

// HTTP returns the server without a listener.
func (s *Server) HTTP() *http.Server {
	idle, slow := cmp.Or(s.Idle, 5*time.Second), cmp.Or(s.Slow, 30*time.Second)
	return &http.Server{
		Handler:           s.Handler,
		ReadHeaderTimeout: idle,
		IdleTimeout:       idle,
		ReadTimeout:       slow,
		WriteTimeout:      slow,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
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
