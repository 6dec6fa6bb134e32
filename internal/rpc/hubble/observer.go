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
	// patience is the time that a request may spend on unknown ends, for a follower that of each chunk. Afterwards, flows
	// show the known ends only, so every request ends, even with a slow API server.
	patience = 3 * time.Second
	// late is the time after which no flow with an earlier time comes into the ring, besides the ends of silent connections:
	// the collector looks ten times a second, and waits two looks for a verdict.
	late = time.Second
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
// so it takes time until ctx ends. Afterwards, it asks nothing and uses what it remembers.
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
	patience     time.Duration // what is left of it
}

// GetFlows implements observer.ObserverServer.
func (o *Observer) GetFlows(request *observerpb.GetFlowsRequest, to grpc.ServerStreamingServer[observerpb.GetFlowsResponse]) error {
	r, err := o.reading(request, to.Send)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	select {
	case o.readers <- struct{}{}:
		defer func() { <-o.readers }()
	default:
		return status.Errorf(codes.ResourceExhausted, "node %s already serves %d clients; end another one, or read through hubble-relay", o.about.Node, maxReaders)
	}
	return r.run(to.Context())
}

// reading returns the reading of a request. The error names the field and the value.
func (o *Observer) reading(request *observerpb.GetFlowsRequest, send func(*observerpb.GetFlowsResponse) error) (*reading, error) {
	r := &reading{Observer: o, request: request, send: send, patience: patience}
	var err error
	if r.filter, err = compile(request.GetWhitelist(), request.GetBlacklist()); err != nil {
		return nil, err
	}
	if request.GetFirst() && request.GetFollow() {
		return nil, errors.New("first and follow exclude each other: the first flows end before new ones come")
	}
	if at := request.GetSince(); at != nil {
		r.since = at.AsTime()
	}
	if at := request.GetUntil(); at != nil {
		r.until = at.AsTime()
	}
	return r, nil
}

// run sends the flows. It ends with those in the ring, or for a follower with the time of the request or its context.
func (r *reading) run(ctx context.Context) error {
	next := r.start(ctx)
	left := r.request.GetNumber()
	follows := r.request.GetFollow()
	isCounted := left > 0 && !follows
	_, end := r.ring.Bounds()
	for {
		if follows {
			r.wait(ctx, next)
		}
		if follows && r.isOver() {
			follows = false
			_, end = r.ring.Bounds()
		}
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		if !follows && next >= end {
			return nil
		}
		flows, lost := r.read(&next, chunk)
		if lost > 0 {
			if err := r.send(r.lost(lost, flowpb.LostEventSource_HUBBLE_RING_BUFFER, time.Now())); err != nil {
				return err
			}
		}
		for _, s := range flows {
			sent, err := r.pass(ctx, s)
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

// wait returns once the ring has a flow with a number, the time of the request is over, or its context has ended.
func (r *reading) wait(ctx context.Context, number uint64) {
	if !r.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.until.Add(late))
		defer cancel()
	}
	_ = r.ring.Wait(ctx, number) // the caller looks at both
	r.patience = patience
}

// isOver reports whether no further flow can be in the time of the request.
func (r *reading) isOver() bool { return !r.until.IsZero() && !time.Now().Before(r.until.Add(late)) }

// start returns the number of the first flow to judge.
func (r *reading) start(ctx context.Context) uint64 {
	oldest, next := r.ring.Bounds()
	wanted := r.request.GetNumber()
	switch {
	case wanted == 0 && r.request.GetFollow() && r.since.IsZero():
		return next
	case wanted == 0 || r.request.GetFirst():
		return r.firstSince(oldest, next)
	}
	// Backwards, until there are enough flows.
	for next > oldest && ctx.Err() == nil {
		from := max(oldest, next-min(next, chunk))
		flows, lost := r.read(&from, int(next-from))
		for i := len(flows) - 1; i >= 0; i-- {
			if r.wants(ctx, flows[i]) {
				if wanted--; wanted == 0 {
					return flows[i].number
				}
			}
		}
		if lost > 0 {
			break // older ones have been overwritten meanwhile
		}
		next = max(oldest, next-min(next, chunk))
	}
	return oldest
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
func (r *reading) read(from *uint64, limit int) (flows []*seen, lost uint64) {
	copied := make([]flow.Flow, limit)
	n, first, lost := r.ring.Read(*from, copied)
	for i := range copied[:n] {
		flows = append(flows, &seen{Flow: copied[i], number: first + uint64(i), node: r.about.Node, start: r.started, domain: r.about.Domain})
	}
	*from = first + uint64(n)
	return flows, lost
}

// isInTime reports whether a flow is in the time of the request.
func (r *reading) isInTime(s *seen) bool {
	return !s.Time.Before(r.since) && (r.until.IsZero() || !s.Time.After(r.until))
}

// wants reports whether the client wants a flow, and completes it.
func (r *reading) wants(ctx context.Context, s *seen) bool {
	if s.Lost > 0 || !r.isInTime(s) {
		return false
	}
	r.know(ctx, s)
	return r.filter.matches(s)
}

// know completes a flow, as long as the request has patience.
func (r *reading) know(ctx context.Context, s *seen) {
	ctx, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	began := time.Now()
	r.complete(ctx, &s.Flow)
	r.patience = max(r.patience-time.Since(began), 0)
}

// pass sends a flow if the client wants it.
func (r *reading) pass(ctx context.Context, s *seen) (sent bool, err error) {
	if s.Lost > 0 && r.isInTime(s) {
		return false, r.send(r.lost(s.Lost, flowpb.LostEventSource_PERF_EVENT_RING_BUFFER, s.Time))
	}
	if !r.wants(ctx, s) {
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
