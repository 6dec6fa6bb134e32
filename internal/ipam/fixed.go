package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Placements tells where a cloud has the addresses of pools with a zone (pool.Pool.Zone).
type Placements interface {
	// Await returns nil as soon as the interface of this node has the address for the pod, as the cloud has confirmed. After the end
	// of ctx, the error gives the last known state of the address.
	Await(ctx context.Context, pool string, addr netip.Addr, podUID string) error
}

// placeTimeout is how long an ADD waits for the addresses of its interface. The kubelet repeats it, and the pod keeps the addresses.
const placeTimeout = 30 * time.Second

// awaitPlaces waits until the cloud has the interface's addresses on this node. Without that, the pod would run without network.
func (s *Service) awaitPlaces(ctx context.Context, pod Pod, req wire.AddRequest, reply wire.AddReply) error {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	for _, a := range reply.Addresses {
		p, ok := s.Catalog.Pool(a.Pool)
		if !ok {
			var err error
			if p, err = s.Catalog.Pools.Get(ctx, a.Pool); err != nil {
				return notReady(err)
			}
		}
		if p.Zone == "" {
			continue
		}
		if err := s.Placements.Await(ctx, a.Pool, a.Prefix.Addr(), pod.UID); err != nil {
			return &Error{
				Kind: Unavailable, Err: err,
				Msg:     fmt.Sprintf("interface %s of pod %s waits for its fixed address %s on node %s", req.Interface, pod, a.Prefix.Addr(), s.Node),
				Details: fmt.Sprintf("the controller has not put it on the node's network interface in %s: %s; the kubelet tries again, and the pod keeps the address", placeTimeout, err),
			}
		}
	}
	return nil
}

// checkZone refuses a pod on a node outside of the zone of its fixed address. The address would be released otherwise, and the pod get another
// one. planned is the error of the plan, or nil.
func (s *Service) checkZone(ctx context.Context, owner lease.Owner, p plan, planned error) error {
	if owner.IsZero() {
		return nil
	}
	outside := map[string]map[string]bool{} // pools of other zones that the pod names, by interface
	add := func(iface string, rejections []pool.Rejection) {
		for _, r := range rejections {
			if named, ok := s.Catalog.Pool(r.Pool); ok && r.Cause == pool.CauseNode && named.Zone != "" {
				if outside[iface] == nil {
					outside[iface] = map[string]bool{}
				}
				outside[iface][r.Pool] = true
			}
		}
	}
	for _, i := range p.interfaces {
		for _, selection := range i.selections {
			add(i.name, selection.Rejections)
		}
	}
	var none pool.NoPools
	if errors.As(planned, &none) {
		for _, e := range none {
			add(e.Interface, e.Rejections)
		}
	}
	if len(outside) == 0 {
		return nil
	}
	if err := s.Allocator.ReadFixed(ctx, owner); err != nil {
		return err
	}
	for _, l := range s.Allocator.FixedFor(owner) {
		if !outside[l.Interface][l.Pool] {
			continue
		}
		node, err := s.Cluster.Node(ctx)
		if err != nil {
			return fmt.Errorf("read node %s: %w", s.Node, err)
		}
		home, _ := s.Catalog.Pool(l.Pool)
		return &Error{
			Kind: NoAddress,
			Msg:  fmt.Sprintf("interface %s of %s gets no address on node %s: its fixed address %s works in zone %s only, and the node is in zone %q", l.Interface, owner, s.Node, l.Addr, home.Zone, node.Labels[zoneLabel]),
			Details: fmt.Sprintf("give the pod a node of zone %s, e.g. with a node affinity for %s, or let it have another address: run spiderpoolctl release %s --force, and the kubelet tries again",
				home.Zone, zoneLabel, l.Addr),
		}
	}
	return nil
}

// zoneLabel is the label of nodes with their zone (https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone).
const zoneLabel = "topology.kubernetes.io/zone"

// checkMachine refuses a pool with a zone to a virtual machine: in a live migration, two nodes need its address.
func checkMachine(owner lease.Owner, p plan) error {
	if owner.Kind != lease.KindVirtualMachine {
		return nil
	}
	for _, i := range p.interfaces {
		for _, selection := range i.selections {
			for _, candidate := range selection.Pools {
				if candidate.Zone != "" {
					return &Error{
						Kind: Invalid, Msg: fmt.Sprintf("interface %s of %s gets no address of SpiderIPPool %s", i.name, owner, candidate.Name),
						Details: "its addresses are on one node at a time, and a virtual machine needs its address on two nodes in a live migration; name another pool",
					}
				}
			}
		}
	}
	return nil
}
