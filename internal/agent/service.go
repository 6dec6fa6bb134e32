package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/agent/flowpods"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/wire"
)

// service implements rpcserver.Service: the use cases, with metrics.
type service struct {
	ipam        *ipam.Service
	ready       func() error
	runtime     *runtimeHealth
	metrics     *metrics
	coordinator *coordinator
	policies    *policies
	flowPods    *flowpods.Follower
	detect      wire.Detection
}

func (s *service) Add(ctx context.Context, req wire.AddRequest) (reply wire.AddReply, err error) {
	began := time.Now()
	defer s.metrics.waiting.enter(began)()
	defer func() { s.metrics.allocation.observe(time.Since(began), err) }()
	if err := s.Status(ctx); err != nil {
		return wire.AddReply{}, err
	}
	reply, err = s.ipam.Add(ctx, req)
	s.flowPods.Added()
	reply.Detect = s.detect
	return reply, CNIError(err)
}

func (s *service) Delete(ctx context.Context, req wire.DeleteRequest) (err error) {
	began := time.Now()
	defer func() { s.metrics.release.observe(time.Since(began), err) }()
	s.policies.forget(req.Attachment)
	s.flowPods.Removed(req.NetNS)
	return CNIError(s.ipam.Delete(ctx, req))
}

func (s *service) Check(ctx context.Context, req wire.CheckRequest) error {
	return CNIError(s.ipam.Check(ctx, req))
}

func (s *service) GC(ctx context.Context, req wire.GCRequest) error {
	return CNIError(s.ipam.GC(ctx, req))
}

func (s *service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	s.metrics.conflicts.Inc()
	return CNIError(s.ipam.Conflict(ctx, req))
}

func (s *service) Status(context.Context) error {
	if err := s.ready(); err != nil {
		return CNIError(&ipam.Error{
			Kind: ipam.Unavailable, Msg: "spiderpool-agent has not read pools, pods and leases from the API server yet", Details: err.Error(), Err: err,
		})
	}
	return nil
}

// Runtime asks the runtime now.
func (s *service) Runtime(ctx context.Context) (wire.RuntimeReply, error) {
	_, err := s.ipam.Runtime.Sandboxes(ctx)
	reply := s.runtime.reply()
	if reply == (wire.RuntimeReply{}) && err != nil {
		reply.Fault = err.Error() // the runtime was not asked, or has nothing to prove yet
	}
	return reply, nil
}

func (s *service) Coordinator(ctx context.Context, req wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	reply, err := s.coordinator.plan(ctx, req)
	s.flowPods.Added()
	return reply, CNIError(err)
}

// codes are the CNI error codes of failed requests (CNI specification 1.1.0, section
// 5, "Error").
var codes = map[ipam.Kind]uint{
	ipam.Unavailable: wire.CodeTryAgainLater,
	ipam.Internal:    wire.CodeInternal,
	ipam.Invalid:     wire.CodeInvalidConfig,
	ipam.NoAddress:   wire.CodeNoAddress,
	ipam.Mismatch:    wire.CodeConflict,
	ipam.Refused:     wire.CodeRefused,
}

// CNIError turns an ipam.Error into a CNI error, and returns any other error
// unchanged.
func CNIError(err error) error {
	var failure *ipam.Error
	if !errors.As(err, &failure) {
		return err
	}
	return &wire.Error{Code: codes[failure.Kind], Msg: failure.Msg, Details: failure.Details, Cause: err}
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
