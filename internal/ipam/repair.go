package ipam

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Repair writes the endpoints that an earlier agent of this node left unwritten: for
// each pod with leases whose endpoint is missing, differs from the leases, or belongs
// to another pod or node.
func (s *Service) Repair(ctx context.Context) {
	pods := map[string][]lease.Lease{}
	for _, l := range s.Allocator.HeldBy(func(lease.Lease) bool { return true }) {
		pods[l.PodUID] = append(pods[l.PodUID], l)
	}
	for uid, leases := range pods {
		if err := s.repair(ctx, uid, leases); err != nil && ctx.Err() == nil {
			s.Log.Warn("cannot repair the endpoint of a pod", "pod", leases[0].Pod, "err", err)
		}
	}
}

func (s *Service) repair(ctx context.Context, uid string, leases []lease.Lease) error {
	pod, err := s.Cluster.Pod(ctx, leases[0].Pod, uid)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrElsewhere) {
		return nil // its leases are for reclaim
	}
	if err != nil {
		return err
	}
	shown, err := s.Endpoints.Addresses(ctx, pod.Namespace, s.endpointName(pod), uid, s.Node)
	if err != nil {
		return err
	}
	held := make([]netip.Addr, 0, len(leases))
	for _, l := range leases {
		held = append(held, l.Addr)
	}
	slices.SortFunc(held, netip.Addr.Compare)
	slices.SortFunc(shown, netip.Addr.Compare)
	assigned, err := s.fromLeases(ctx, leases)
	if err != nil {
		return err
	}
	owner, err := s.restoreFromAnnotations(ctx, pod, assigned)
	if err != nil {
		return err
	}
	if slices.Equal(held, shown) {
		s.endpointCache.merge(uid, assigned)
		return nil
	}
	s.show(pod, owner, s.endpointCache.merge(uid, assigned))
	return nil
}

// fromLeases returns the interfaces of the leases, as far as leases know them.
func (s *Service) fromLeases(ctx context.Context, leases []lease.Lease) ([]EndpointInterface, error) {
	slices.SortFunc(leases, func(a, b lease.Lease) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Addr.Compare(b.Addr))
	})
	var assigned []EndpointInterface
	for _, l := range leases {
		p, err := s.poolOf(ctx, l.Pool)
		if err != nil {
			return nil, err
		}
		if n := len(assigned); n == 0 || assigned[n-1].Interface != l.Interface {
			assigned = append(assigned, EndpointInterface{Interface: l.Interface})
		}
		last := &assigned[len(assigned)-1]
		last.Addresses = append(last.Addresses, EndpointAddress{
			Prefix: netip.PrefixFrom(l.Addr, p.Subnet.Bits()), Gateway: p.Gateway, Pool: l.Pool,
		})
		last.Routes = append(last.Routes, p.Routes...)
	}
	return assigned, nil
}

// restoreFromAnnotations adds the facts that leases lack: the routes of the pod's
// annotation, and the interfaces without a default route. It cannot see clean_gateway
// in the CNI configuration of a network without a NetworkAttachmentDefinition.
func (s *Service) restoreFromAnnotations(ctx context.Context, pod Pod, assigned []EndpointInterface) (Controller, error) {
	interfaces, err := pool.Interfaces(pod.Namespace, pod.Annotations, s.Options.ClusterNetwork)
	if err != nil {
		return Controller{}, err
	}
	facts, owner, err := s.facts(ctx, pod)
	if err != nil {
		return owner, err
	}
	for _, i := range interfaces {
		at := slices.IndexFunc(assigned, func(g EndpointInterface) bool { return g.Interface == i.Name })
		if at < 0 {
			continue
		}
		network, err := s.sibling(ctx, i)
		if err != nil {
			return owner, err
		}
		req := facts
		req.Interface, req.Position, req.Attachment, req.CleanGateway = i.Name, i.Position, i.Attachment, network.CleanGateway
		for _, version := range s.families() {
			selection, err := pool.Select(s.Catalog.snapshot(), &req, version)
			if err != nil {
				return owner, err
			}
			assigned[at].CleanGateway = assigned[at].CleanGateway || selection.CleanGateway
		}
	}
	if value, ok := pod.Annotations[names.AnnotationPodRoutes]; ok {
		routes, err := pool.ParseRoutes(value)
		if err != nil {
			return owner, err
		}
		return owner, placeRoutes(assigned, plan{routes: routes, foreign: true}) // ADD has judged them
	}
	return owner, nil
}
