package ipam

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/lease"
)

// Repair writes the endpoints that a former agent of this node did not get to
// write: those of pods that hold leases which their endpoint does not show.
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
	namespace, name := splitPod(leases[0].Pod)
	pod, err := s.Cluster.Pod(ctx, namespace, name, uid)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrElsewhere) {
		return nil // its leases are for reclaim
	}
	if err != nil {
		return err
	}
	shown, err := s.Endpoints.Addresses(ctx, namespace, s.endpointName(pod))
	if err != nil {
		return err
	}
	held := make([]netip.Addr, 0, len(leases))
	for _, l := range leases {
		held = append(held, l.Addr)
	}
	slices.SortFunc(held, netip.Addr.Compare)
	slices.SortFunc(shown, netip.Addr.Compare)
	given, err := s.fromLeases(ctx, leases)
	if err != nil {
		return err
	}
	if slices.Equal(held, shown) {
		s.shown.merge(uid, given)
		return nil
	}
	s.show(ctx, pod, s.shown.merge(uid, given))
	return nil
}

// fromLeases is what the leases give to interfaces, as far as leases tell.
func (s *Service) fromLeases(ctx context.Context, leases []lease.Lease) ([]EndpointInterface, error) {
	slices.SortFunc(leases, func(a, b lease.Lease) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Addr.Compare(b.Addr))
	})
	var given []EndpointInterface
	for _, l := range leases {
		p, err := s.poolOf(ctx, l.Pool)
		if err != nil {
			return nil, err
		}
		if n := len(given); n == 0 || given[n-1].Interface != l.Interface {
			given = append(given, EndpointInterface{Interface: l.Interface})
		}
		last := &given[len(given)-1]
		last.Addresses = append(last.Addresses, EndpointAddress{
			Prefix: netip.PrefixFrom(l.Addr, p.Subnet.Bits()), Gateway: p.Gateway, Pool: l.Pool,
		})
		last.Routes = append(last.Routes, p.Routes...)
	}
	return given, nil
}
