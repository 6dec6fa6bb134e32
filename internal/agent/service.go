package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/wire"
)

// service implements rpcserver.Service: the use cases, with metrics.
type service struct {
	ipam        *ipam.Service
	ready       func() error
	metrics     *metrics
	coordinator *coordinator
	detect      wire.Detection
}

func (s *service) Add(ctx context.Context, req wire.AddRequest) (reply wire.AddReply, err error) {
	began := time.Now()
	defer func() { s.metrics.allocation.observe(time.Since(began), err) }()
	if err := s.Status(ctx); err != nil {
		return wire.AddReply{}, err
	}
	reply, err = s.ipam.Add(ctx, req)
	reply.Detect = s.detect
	return reply, err
}

func (s *service) Delete(ctx context.Context, req wire.DeleteRequest) (err error) {
	began := time.Now()
	defer func() { s.metrics.release.observe(time.Since(began), err) }()
	return s.ipam.Delete(ctx, req)
}

func (s *service) Check(ctx context.Context, req wire.CheckRequest) error {
	return s.ipam.Check(ctx, req)
}

func (s *service) GC(ctx context.Context, req wire.GCRequest) error { return s.ipam.GC(ctx, req) }

func (s *service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	return s.ipam.Conflict(ctx, req)
}

func (s *service) Status(context.Context) error {
	if err := s.ready(); err != nil {
		return &wire.Error{
			Code: wire.CodeTryAgainLater, Msg: "spiderpool-agent has not read pools, pods and leases from the API server yet", Details: err.Error(), Cause: err,
		}
	}
	return nil
}

func (s *service) Coordinator(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	return s.coordinator.plan(ctx, req)
}

// links implements ipam.Links for the agent's network namespace, i.e. the node's.
type links struct{}

func (links) Subnets(link string) ([]netip.Prefix, error) {
	found, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("link %q: %w", link, err)
	}
	addrs, err := found.Addrs()
	if err != nil {
		return nil, fmt.Errorf("link %q: %w", link, err)
	}
	var subnets []netip.Prefix
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
			subnets = append(subnets, prefix.Masked())
		}
	}
	return subnets, nil
}
