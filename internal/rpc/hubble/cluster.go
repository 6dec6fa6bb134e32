package hubble

import (
	"context"
	"maps"
	"slices"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// GetNodes implements observer.ObserverServer: an agent knows its own node. hubble-relay asks all agents.
func (o *Observer) GetNodes(context.Context, *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	oldest, next := o.ring.Bounds()
	return &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{{
		Name: o.about.Node, Version: o.version(), State: relaypb.NodeState_NODE_CONNECTED, Tls: &observerpb.TLS{},
		UptimeNs: uint64(time.Since(o.started)), NumFlows: next - oldest, MaxFlows: uint64(o.ring.Capacity()), SeenFlows: next,
	}}}, nil
}

// GetNamespaces implements observer.ObserverServer: the namespaces of the pods in the ring.
func (o *Observer) GetNamespaces(ctx context.Context, _ *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	r := &reading{Observer: o, patience: patience}
	found := map[string]bool{}
	next, end := o.ring.Bounds() // later flows would make it endless
	for next < end && ctx.Err() == nil {
		flows, _ := r.read(&next, chunk)
		for _, s := range flows {
			if s.Lost > 0 {
				continue
			}
			r.know(ctx, s)
			for _, pod := range []string{s.sourcePod().Namespace, s.destinationPod().Namespace} {
				if pod != "" {
					found[pod] = true
				}
			}
		}
	}
	response := &observerpb.GetNamespacesResponse{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		response.Namespaces = append(response.Namespaces, &observerpb.Namespace{Namespace: name})
	}
	return response, nil
}

// Member is a node with an agent.
type Member struct {
	Node string
	// Address is that of its gRPC server, e.g. "192.0.2.7:5712"; empty if the node is gone.
	Address string
}

// FollowMembers calls changed for each node of the cluster, and again after each change, until ctx ends. Calls are serialized.
type FollowMembers func(ctx context.Context, changed func(Member) error) error

// maxFollowers is the number of clients that may follow the nodes at a time: each is a watch of all nodes. hubble-relay needs one.
const maxFollowers = 4

// Peers tells hubble-relay the nodes of the cluster.
type Peers struct {
	peerpb.UnimplementedPeerServer
	follow     FollowMembers
	serverName string
	followers  chan struct{}
}

// NewPeers returns a server of the nodes. serverName is that in the certificates of all agents; empty for agents without TLS.
func NewPeers(follow FollowMembers, serverName string) *Peers {
	return &Peers{follow: follow, serverName: serverName, followers: make(chan struct{}, maxFollowers)}
}

// Notify implements peer.PeerServer.
func (p *Peers) Notify(_ *peerpb.NotifyRequest, to grpc.ServerStreamingServer[peerpb.ChangeNotification]) error {
	select {
	case p.followers <- struct{}{}:
		defer func() { <-p.followers }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d clients already follow the nodes through this agent; end another one", maxFollowers)
	}
	known := map[string]string{}
	return p.follow(to.Context(), func(m Member) error {
		before, had := known[m.Node]
		if m.Address == before {
			return nil
		}
		change := &peerpb.ChangeNotification{Name: m.Node, Address: m.Address, Type: peerpb.ChangeNotificationType_PEER_ADDED}
		switch {
		case m.Address == "":
			delete(known, m.Node)
			change.Address, change.Type = before, peerpb.ChangeNotificationType_PEER_DELETED
		case had:
			change.Type = peerpb.ChangeNotificationType_PEER_UPDATED
		}
		if m.Address != "" {
			known[m.Node] = m.Address
		}
		if p.serverName != "" {
			change.Tls = &peerpb.TLS{ServerName: p.serverName}
		}
		return to.Send(change)
	})
}
