package controller

import (
	"hash/maphash"
	"sync"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// recent has the last parts of some keys. An object shares the equal ones, and need not share any, so one place serves many
// keys. The zero value is empty.
type recent[T any] struct {
	mu    sync.Mutex
	parts [16384]T
}

var recentSeed = maphash.MakeSeed()

// replace calls share with the last parts of a key, stores what it returns, and returns it.
func (r *recent[T]) replace(key string, share func(was T) T) T {
	place := &r.parts[maphash.String(recentSeed, key)%uint64(len(r.parts))]
	r.mu.Lock()
	defer r.mu.Unlock()
	*place = share(*place)
	return *place
}

// endpointSharer makes the SpiderEndpoints of the cache. The zero value is ready.
type endpointSharer struct{ nodes recent[[]v2beta1.EndpointIP] }

// share lets SpiderEndpoints share equal parts. Those of a node mostly have the same pools, gateways and routes.
func (s *endpointSharer) share(o any) (any, error) {
	endpoint, ok := o.(*v2beta1.SpiderEndpoint)
	if !ok {
		return o, nil
	}
	is := &endpoint.Status
	endpoint.ManagedFields = nil
	endpoint.Kind, endpoint.APIVersion, endpoint.Namespace = shared(endpoint.Kind), shared(endpoint.APIVersion), shared(endpoint.Namespace)
	is.Current.Node, is.OwnerControllerType = shared(is.Current.Node), shared(is.OwnerControllerType)
	if is.OwnerControllerName == endpoint.Name {
		is.OwnerControllerName = endpoint.Name
	} else {
		is.OwnerControllerName = shared(is.OwnerControllerName)
	}
	is.Current.IPs = clipped(is.Current.IPs)
	s.nodes.replace(is.Current.Node, func(was []v2beta1.EndpointIP) []v2beta1.EndpointIP {
		for i := range is.Current.IPs {
			var other v2beta1.EndpointIP
			if i < len(was) {
				other = was[i]
			}
			shareInterface(&is.Current.IPs[i], &other)
		}
		return is.Current.IPs
	})
	return endpoint, nil
}

func shareInterface(is, was *v2beta1.EndpointIP) {
	is.Interface, is.Network = shared(is.Interface), shared(is.Network)
	is.IPv4Pool, is.IPv6Pool = samePointer(is.IPv4Pool, was.IPv4Pool), samePointer(is.IPv6Pool, was.IPv6Pool)
	is.IPv4Gateway, is.IPv6Gateway = samePointer(is.IPv4Gateway, was.IPv4Gateway), samePointer(is.IPv6Gateway, was.IPv6Gateway)
	is.Vlan, is.CleanGateway = samePointer(is.Vlan, was.Vlan), samePointer(is.CleanGateway, was.CleanGateway)
	is.Routes = sameSlice(is.Routes, was.Routes)
}

func samePointer[T comparable](is, was *T) *T {
	if is != nil && was != nil && *is == *was {
		return was
	}
	return is
}

// clipped returns a slice without the room at the end that a JSON decoder leaves.
func clipped[T any](all []T) []T {
	if len(all) == cap(all) {
		return all
	}
	out := make([]T, len(all))
	copy(out, all)
	return out
}

// shareBlock lets SpiderIPBlocks share equal texts.
func shareBlock(o any) (any, error) {
	block, ok := o.(*v2beta1.SpiderIPBlock)
	if !ok {
		return o, nil
	}
	block.ManagedFields = nil
	block.Kind, block.APIVersion = shared(block.Kind), shared(block.APIVersion)
	block.Spec.Leases = clipped(block.Spec.Leases)
	for i := range block.Spec.Leases {
		l := &block.Spec.Leases[i]
		l.State, l.Pool, l.Interface, l.Node = shared(l.State), shared(l.Pool), shared(l.Interface), shared(l.Node)
	}
	return block, nil
}
