// Package hubble serves the flows of a node with the API of Hubble: the hubble command, hubble-relay and its user interface
// read them unchanged.
//
// The messages are those of Cilium's module; its server is not linked (docs/adr). A client that reads too slowly loses flows, and
// gets a LostEvent with their number: neither the collector nor other clients ever wait for it.
package hubble

import (
	"context"
	"errors"
	"fmt"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"spiderpool.dev/spiderpool/internal/flow"
)

const (
	// chunk is the number of flows that a reader copies from the ring at a time.
	chunk = 64
	// maxReaders is the number of clients that may read flows at a time.
	maxReaders = 16
)

// Observer serves the flows of one node.
type Observer struct {
	observerpb.UnimplementedObserverServer
	ring     *flow.Ring
	complete Completer
	about    About
	started  time.Time
	readers  chan struct{}
}

// Completer sets the unknown ends and the service of a flow, as far as the cluster knows them. It may read from the API server,
// so it takes time.
type Completer func(ctx context.Context, f *flow.Flow)

// About describes the node to clients.
type About struct {
	// Node is its name, and Version that of Spiderpool.
	Node, Version string
	// Domain is the DNS domain of the cluster, e.g. cluster.local.
	Domain string
}

// NewObserver returns an observer of a ring.
func NewObserver(ring *flow.Ring, complete Completer, about About) *Observer {
	return &Observer{ring: ring, complete: complete, about: about, started: time.Now(), readers: make(chan struct{}, maxReaders)}
}

// reading is one request for flows.
type reading struct {
	*Observer
	request      *observerpb.GetFlowsRequest
	filter       filter
	since, until time.Time // zero without a limit
	send         func(*observerpb.GetFlowsResponse) error
}

// GetFlows implements observer.ObserverServer.
func (o *Observer) GetFlows(request *observerpb.GetFlowsRequest, to grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	r := &reading{Observer: o, request: request, send: to.Send}
	var err error
	if r.filter, err = compile(request.GetWhitelist(), request.GetBlacklist()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if request.GetFirst() && request.GetFollow() {
		return status.Error(codes.InvalidArgument, "first and follow exclude each other: the first flows end before new ones come")
	}
	if at := request.GetSince(); at != nil {
		r.since = at.AsTime()
	}
	if at := request.GetUntil(); at != nil {
		r.until = at.AsTime()
	}
	select {
	case o.readers <- struct{}{}:
		defer func() { <-o.readers }()
	default:
		return status.Errorf(codes.ResourceExhausted, "node %s already serves %d clients; end another one, or read through hubble-relay", o.about.Node, maxReaders)
	}
	err = r.run(to.Context())
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough means that the client has all flows that it asked for.
var errEnough = errors.New("all flows sent")

func (r *reading) run(ctx context.Context) error {
	next, err := r.start(ctx)
	if err != nil {
		return err
	}
	left := r.request.GetNumber()
	isCounted := left > 0 && !r.request.GetFollow()
	_, end := r.ring.Bounds()
	for {
		if !r.request.GetFollow() && next >= end {
			return nil
		}
		if err := r.ring.Wait(ctx, next); err != nil {
			return status.FromContextError(ctx.Err()).Err()
		}
		flows, lost := r.read(ctx, &next, chunk)
		if lost > 0 {
			if err := r.send(r.lost(lost, flowpb.LostEventSource_HUBBLE_RING_BUFFER, time.Now())); err != nil {
				return err
			}
		}
		for _, s := range flows {
			sent, err := r.pass(s)
			if err != nil {
				return err
			}
			if sent && isCounted {
				if left--; left == 0 {
					return nil
				}
			}
		}
	}
}

// start returns the number of the first flow to judge.
func (r *reading) start(ctx context.Context) (uint64, error) {
	oldest, next := r.ring.Bounds()
	wanted := r.request.GetNumber()
	switch {
	case !r.since.IsZero():
		return r.firstSince(oldest, next), nil
	case r.request.GetFirst():
		return oldest, nil
	case wanted == 0 && r.request.GetFollow():
		return next, nil
	case wanted == 0:
		return oldest, nil
	}
	// Backwards, until there are enough flows.
	for next > oldest {
		if ctx.Err() != nil {
			return 0, status.FromContextError(ctx.Err()).Err()
		}
		from := max(oldest, next-min(next, chunk))
		flows, lost := r.read(ctx, &from, int(next-from))
		for i := len(flows) - 1; i >= 0; i-- {
			s := flows[i]
			if s.Lost == 0 && r.filter.matches(s) {
				if wanted--; wanted == 0 {
					return s.number, nil
				}
			}
		}
		if lost > 0 {
			break // older ones have been overwritten meanwhile
		}
		next = max(oldest, next-min(next, chunk))
	}
	return oldest, nil
}

// firstSince returns the number of the first flow since the time of the request. Flows are not in the order of their times: the end
// of a silent connection has that of its last packet.
func (r *reading) firstSince(oldest, next uint64) uint64 {
	copied := make([]flow.Flow, chunk)
	for at := oldest; at < next; {
		n, first, _ := r.ring.Read(at, copied)
		for i := range copied[:n] {
			if !copied[i].Time.Before(r.since) {
				return first + uint64(i)
			}
		}
		at = first + uint64(n)
	}
	return next
}

// read returns at most limit flows from a number on, and sets it to that of the flow after them.
func (r *reading) read(ctx context.Context, from *uint64, limit int) (flows []*seen, lost uint64) {
	copied := make([]flow.Flow, limit)
	n, first, lost := r.ring.Read(*from, copied)
	for i := range copied[:n] {
		s := &seen{Flow: copied[i], number: first + uint64(i), node: r.about.Node, start: r.started, domain: r.about.Domain}
		if s.Lost == 0 {
			r.complete(ctx, &s.Flow)
		}
		flows = append(flows, s)
	}
	*from = first + uint64(n)
	return flows, lost
}

// pass sends a flow if the client wants it.
func (r *reading) pass(s *seen) (sent bool, err error) {
	switch {
	case !r.until.IsZero() && s.Time.After(r.until):
		if r.request.GetFollow() {
			return false, errEnough
		}
		return false, nil
	case !r.since.IsZero() && s.Time.Before(r.since):
		return false, nil
	case s.Lost > 0:
		return false, r.send(r.lost(s.Lost, flowpb.LostEventSource_PERF_EVENT_RING_BUFFER, s.Time))
	case !r.filter.matches(s):
		return false, nil
	}
	return true, r.send(&observerpb.GetFlowsResponse{
		ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: s.message()},
		NodeName:      s.node,
		Time:          timestamppb.New(s.Time),
	})
}

func (r *reading) lost(number uint64, where flowpb.LostEventSource, at time.Time) *observerpb.GetFlowsResponse {
	return &observerpb.GetFlowsResponse{
		ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: &flowpb.LostEvent{Source: where, NumEventsLost: number}},
		NodeName:      r.about.Node,
		Time:          timestamppb.New(at),
	}
}

// ServerStatus implements observer.ObserverServer.
func (o *Observer) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	oldest, next := o.ring.Bounds()
	up := max(time.Since(o.started), time.Second)
	return &observerpb.ServerStatusResponse{
		NumFlows: next - oldest, MaxFlows: uint64(o.ring.Capacity()), SeenFlows: next,
		UptimeNs: uint64(up), FlowsRate: float64(next) / up.Seconds(), Version: o.version(),
		NumConnectedNodes: wrapperspb.UInt32(1), NumUnavailableNodes: wrapperspb.UInt32(0),
	}, nil
}

func (o *Observer) version() string { return fmt.Sprintf("spiderpool-agent %s", o.about.Version) }
