package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"spiderpool.dev/spiderpool/internal/agent/flowends"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/process/httpserver"
	"spiderpool.dev/spiderpool/internal/rpc/hubble"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
)

// flows are the parts that collect and serve the flows of this node's pods. They are nil with observability.enabled=false, or if
// the node cannot collect.
type flows struct {
	*agent
	source flow.Source
	ring   *flow.Ring
	ends   *flowends.Directory
	server *hubble.Server
	count  *observe.FlowCounters
	// room is used again for each batch of events.
	room []flow.Flow
}

// newFlows returns the parts, or nil without a source.
func (a *agent) newFlows(client *agentclient.Client, source flow.Source) (*flows, error) {
	if source == nil {
		return nil, nil
	}
	metrics, err := observe.ParseFlowMetrics(a.cfg.Observability.Metrics)
	if err != nil {
		return nil, fmt.Errorf("observability.metrics: %w", err)
	}
	f := &flows{agent: a, source: source, ring: flow.NewRing(a.cfg.Observability.Flows), count: observe.NewFlowCounters(a.metrics.registry, metrics, time.Now)}
	f.ends = flowends.New(flowends.Options{
		Node:     a.cfg.NodeName,
		Held:     func() []lease.Lease { return a.service.Allocator.HeldFor(0) },
		Cluster:  a.cluster,
		Blocks:   agentclient.NewBlockStore(client),
		Services: a.names.Owner,
		Now:      time.Now,
		Log:      a.log,
	})
	about := hubble.About{Node: a.cfg.NodeName, Version: config.Version, Domain: a.cfg.ClusterDNSDomain}
	f.server = &hubble.Server{Observer: hubble.NewObserver(f.ring, f.ends.Complete, about)}
	if a.cfg.Observability.Port != 0 {
		certificate := httpserver.NewKeyPair(a.cfg.Observability.TLS.CertDir).Certificate
		a.metrics.registry.MustRegister(observe.NewCertificateExpiry("flows", certificate))
		f.server.Peers = hubble.NewPeers(a.followMembers(client), a.cfg.Observability.TLS.ServerName+"."+a.cfg.PodNamespace+".svc")
	}
	return f, nil
}

// take adds events to the ring. It waits for nothing but the lock of a reader that copies.
func (f *flows) take(events []flow.Event, lost uint64) {
	f.room = f.room[:0]
	if lost > 0 {
		f.room = append(f.room, flow.Flow{Event: flow.Event{Time: time.Now()}, Lost: lost})
		f.count.Lost(lost)
	}
	for i := range events {
		f.room = append(f.room, flow.Flow{Event: events[i]})
		seen := &f.room[len(f.room)-1]
		*seen.Local() = f.ends.Local(&events[i])
		if !f.count.NeedEnds() {
			f.count.Count(seen)
		}
	}
	f.ring.Add(f.room...)
}

// countEnds counts flows by their ends until ctx ends. It reads them like a client, so it may lose some.
func (f *flows) countEnds(ctx context.Context) {
	if !f.count.NeedEnds() {
		return
	}
	var next uint64
	room := make([]flow.Flow, 64)
	for f.ring.Wait(ctx, next) == nil {
		n, first, lost := f.ring.Read(next, room)
		f.count.Lost(lost)
		for i := range room[:n] {
			if room[i].Lost == 0 {
				f.ends.Complete(ctx, &room[i])
				f.count.Count(&room[i])
			}
		}
		next = first + uint64(n)
	}
}

// run collects and serves flows until ctx ends.
func (f *flows) run(ctx context.Context) {
	if f == nil {
		return
	}
	var parts sync.WaitGroup
	parts.Go(func() {
		f.retry(ctx, "collect flows", func(ctx context.Context) error { return f.source.Run(ctx, f.take) })
	})
	parts.Go(func() { f.retry(ctx, "serve flows on a unix socket", f.serveLocally) })
	parts.Go(func() { f.countEnds(ctx) })
	if f.cfg.Observability.Port != 0 {
		parts.Go(func() { f.retry(ctx, "serve flows to clients with a certificate", f.serveRemotely) })
	}
	parts.Wait()
}

// serveRemotely serves clients with a certificate. Until the agent has one itself, each handshake fails.
func (f *flows) serveRemotely(ctx context.Context) error {
	o := f.cfg.Observability
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", f.address(o.Address, o.Port))
	if err != nil {
		return err
	}
	return f.server.Serve(ctx, listener, credentials.NewTLS(httpserver.NewKeyPair(o.TLS.CertDir).Mutual()))
}

// serveLocally serves root of this node.
func (f *flows) serveLocally(ctx context.Context) error {
	listener, err := rpcserver.Listen(f.cfg.Observability.SocketPath)
	if err != nil {
		return err
	}
	return f.server.Serve(ctx, listener, nil)
}

// followMembers follows the agents of the cluster, for hubble-relay. All of them serve the same port.
func (a *agent) followMembers(client *agentclient.Client) hubble.FollowMembers {
	return func(ctx context.Context, changed func(hubble.Member) error) error {
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		client.FollowNodes(ctx, func(node string, addr netip.Addr) {
			member := hubble.Member{Node: node}
			if addr.IsValid() {
				member.Address = net.JoinHostPort(addr.String(), strconv.Itoa(a.cfg.Observability.Port))
			}
			if err := changed(member); err != nil {
				stop(fmt.Errorf("tell a client about node %s: %w", node, err))
			}
		}, a.log)
		return context.Cause(ctx)
	}
}
