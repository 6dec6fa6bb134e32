package hubble

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// maxConnections is the number of connections to one listener at a time; others wait.
	maxConnections = 32
	// maxRequest limits a request in bytes. One with a hundred filters has about 10 kB.
	maxRequest = 64 << 10
	// idle ends connections without a request, and silent ones whose client does not answer pings.
	idle = 5 * time.Minute
)

// healthService is the name that the hubble command asks the health of (Cilium's pkg/hubble/api/v1).
const healthService = "hubble.server.Observer"

// Server serves Hubble's API on any number of listeners.
type Server struct {
	Observer *Observer
	// Peers is nil without a listener for hubble-relay.
	Peers *Peers
}

// Serve serves a listener until ctx ends. creds is nil for a unix socket.
func (s *Server) Serve(ctx context.Context, listener net.Listener, creds credentials.TransportCredentials) error {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(4 * maxReaders),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idle, Time: idle, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if creds != nil {
		options = append(options, grpc.Creds(creds))
	}
	server := grpc.NewServer(options...)
	observerpb.RegisterObserverServer(server, s.Observer)
	if s.Peers != nil {
		peerpb.RegisterPeerServer(server, s.Peers)
	}
	state := health.NewServer()
	state.SetServingStatus(healthService, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, state)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		server.Stop() // followers never end by themselves
	}()
	err := server.Serve(netutil.LimitListener(fair(listener), maxConnections))
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve flows on %s: %w", listener.Addr(), err)
}
