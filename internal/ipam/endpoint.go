package ipam

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Repair updates the endpoints of all pods with addresses on this node. It makes up for
// the updates that an earlier agent left undone, and for changes by users.
func (s *Service) Repair() {
	for _, l := range s.Allocator.HeldFor(0) {
		if !l.OfFormer() {
			s.Endpoints.Changed(EndpointOf(l.Holder), 0)
		}
	}
}

// EndpointOf returns the key of the endpoint that shows the holder of a lease: that of
// the virtual machine if the address is fixed for it, and else that of the pod.
func EndpointOf(h lease.Holder) EndpointKey {
	key := EndpointKey{PodKey: h.Pod, Pod: h.Pod, PodUID: h.PodUID}
	if h.FixedFor.Kind == lease.KindVirtualMachine {
		key.PodKey = h.FixedFor.Key()
	}
	return key
}

// Endpoint returns the wanted content of the endpoint, given the stored one, nil if
// there is none. It returns nil if there should be none, and stored itself if the agent
// must not change it: it shows another pod or node, or the pod is gone, or all its
// addresses are retained for its return.
//
// Leases say which addresses the pod has. They do not know what the ADD answered beside
// that: the gateway, routes and network of that time, and clean_gateway in a CNI
// configuration without a NetworkAttachmentDefinition. So an interface comes, in this order,
// from the ADD, from the stored endpoint if that has the same addresses, or from the leases.
func (s *Service) Endpoint(ctx context.Context, key EndpointKey, stored *Endpoint) (*Endpoint, error) {
	if !s.Allocator.Loaded() {
		return nil, ErrNotReady
	}
	granted, leases, missing := s.grantedPods.current(key.PodUID, s.Allocator)
	shown := stored != nil && stored.PodUID == key.PodUID && stored.Node == s.Node
	if len(leases) == 0 && shown {
		return nil, nil
	}
	if len(missing) == 0 {
		return stored, nil
	}
	want := &Endpoint{EndpointKey: key, Node: s.Node, Owner: granted.owner}
	known := granted.interfaces
	if shown {
		known = slices.Concat(known, stored.Interfaces)
		want.Owner = cmp.Or(want.Owner, stored.Owner)
	}
	for _, i := range known {
		if shows(i, missing[i.Interface]) {
			want.Interfaces = append(want.Interfaces, i)
			delete(missing, i.Interface)
		}
	}
	want.New = len(missing) == 0 && !shown && !granted.asked
	if shown && len(missing) == 0 && !slices.ContainsFunc(want.Interfaces, hasNoNetwork) {
		return want, nil
	}
	pod, err := s.Cluster.Pod(ctx, key.Pod, key.PodUID)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrElsewhere) {
		return stored, nil // its leases are for reclaim
	}
	if err != nil {
		return nil, err
	}
	if stored != nil && !shown {
		// Memory may be behind, and the agent of the next pod of this name faster.
		live, err := s.Cluster.PodState(ctx, key.Pod)
		if err != nil || live.Presence == reclaim.Gone || live.UID != key.PodUID {
			return stored, err
		}
	}
	if len(missing) > 0 {
		err = s.addFromLeases(ctx, want, pod, missing)
	}
	s.setNetworks(pod, want.Interfaces)
	return want, err
}

func hasNoNetwork(i EndpointInterface) bool { return i.Network == (pool.NetworkAttachment{}) }

// setNetworks sets the networks that neither an ADD nor the stored endpoint tells: an earlier
// release did not store them. A pod with invalid annotations has none.
func (s *Service) setNetworks(pod Pod, of []EndpointInterface) {
	interfaces, err := pool.Interfaces(pod.Namespace, pod.Annotations, s.Options.ClusterNetwork)
	if err != nil {
		return
	}
	for _, i := range interfaces {
		for at := range of {
			if of[at].Interface == i.Name && hasNoNetwork(of[at]) {
				of[at].Network = i.Attachment
			}
		}
	}
}

// inUseByInterface groups the leases in use of a pod. If an earlier sandbox of the pod
// still has an address of the interface, that of the latest sandbox counts.
func inUseByInterface(leases []lease.Lease) map[string][]lease.Lease {
	slices.SortStableFunc(leases, func(a, b lease.Lease) int { return a.Since.Compare(b.Since) })
	out := map[string][]lease.Lease{}
	for _, l := range leases {
		if l.State != lease.InUse {
			continue
		}
		if earlier := out[l.Interface]; len(earlier) > 0 && earlier[0].ContainerID != l.ContainerID {
			out[l.Interface] = nil
		}
		out[l.Interface] = append(out[l.Interface], l)
	}
	return out
}

// shows reports whether the interface has the addresses of the leases, and no other.
func shows(i EndpointInterface, leases []lease.Lease) bool {
	return len(leases) > 0 && len(i.Addresses) == len(leases) && !slices.ContainsFunc(leases, func(l lease.Lease) bool {
		return !slices.ContainsFunc(i.Addresses, func(a EndpointAddress) bool { return a.Prefix.Addr() == l.Addr })
	})
}

// grantedPods remembers the interfaces that ADDs of this process answered, because one
// ADD may cover some of a pod's interfaces and its endpoint covers all. The zero value
// is empty.
type grantedPods struct {
	mu   sync.Mutex
	pods map[string]grantedPod // by UID
}

type grantedPod struct {
	owner      Controller
	interfaces []EndpointInterface
	asked      bool // current has returned it
}

// add records what an ADD granted, after the leases were committed.
func (g *grantedPods) add(podUID string, owner Controller, assigned []EndpointInterface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pods == nil {
		g.pods = map[string]grantedPod{}
	}
	all := slices.Clone(g.pods[podUID].interfaces)
	for _, i := range assigned {
		at := slices.IndexFunc(all, func(old EndpointInterface) bool { return old.Interface == i.Interface })
		if at < 0 {
			all = append(all, i)
		} else {
			all[at] = i
		}
	}
	g.pods[podUID] = grantedPod{owner, all, g.pods[podUID].asked}
}

// current returns the interfaces that still have their leases, and forgets the others.
// It also returns all leases of the pod, and those in use by interface. It reads them
// under its lock: read earlier, they would lack those of an ADD that comes between, and
// its interfaces would be forgotten.
func (g *grantedPods) current(podUID string, a *alloc.Allocator) (pod grantedPod, leases []lease.Lease, inUse map[string][]lease.Lease) {
	g.mu.Lock()
	defer g.mu.Unlock()
	leases = a.OfPod(podUID)
	inUse = inUseByInterface(leases)
	pod = g.pods[podUID]
	pod.interfaces = slices.DeleteFunc(slices.Clone(pod.interfaces), func(i EndpointInterface) bool { return !shows(i, inUse[i.Interface]) })
	if len(pod.interfaces) == 0 {
		delete(g.pods, podUID)
		return grantedPod{}, leases, inUse
	}
	g.pods[podUID] = grantedPod{pod.owner, pod.interfaces, true}
	return pod, leases, inUse
}

// addFromLeases adds the interfaces of the leases to the endpoint, with the routes that
// the pod's annotation gives them.
func (s *Service) addFromLeases(ctx context.Context, to *Endpoint, pod Pod, leases map[string][]lease.Lease) error {
	facts, owner, err := s.facts(ctx, pod)
	if err != nil {
		return err
	}
	var added []EndpointInterface
	for _, name := range slices.Sorted(maps.Keys(leases)) {
		i, err := s.fromLeases(ctx, name, leases[name])
		if err != nil {
			return err
		}
		added = append(added, i)
	}
	if err := s.setCleanGateway(ctx, pod, facts, added); err != nil {
		return err
	}
	if value, ok := pod.Annotations[names.AnnotationPodRoutes]; ok {
		routes, err := pool.ParseRoutes(value)
		if err != nil {
			return err
		}
		if err := placeRoutes(added, plan{routes: routes, foreign: true}); err != nil { // ADD has judged them
			return err
		}
	}
	to.Interfaces, to.Owner = append(to.Interfaces, added...), cmp.Or(to.Owner, owner)
	return nil
}

// fromLeases returns the interface, as far as its leases know it.
func (s *Service) fromLeases(ctx context.Context, name string, leases []lease.Lease) (EndpointInterface, error) {
	out := EndpointInterface{Interface: name}
	slices.SortFunc(leases, func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) })
	for _, l := range leases {
		if err := s.addAddress(ctx, &out, l.Addr, l.Pool); err != nil {
			return out, err
		}
	}
	return out, nil
}

// setCleanGateway marks the interfaces without a default route. It cannot see
// clean_gateway in a CNI configuration without a NetworkAttachmentDefinition.
func (s *Service) setCleanGateway(ctx context.Context, pod Pod, facts pool.Request, assigned []EndpointInterface) error {
	interfaces, err := pool.Interfaces(pod.Namespace, pod.Annotations, s.Options.ClusterNetwork)
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		at := slices.IndexFunc(assigned, func(g EndpointInterface) bool { return g.Interface == i.Name })
		if at < 0 {
			continue
		}
		network, err := s.sibling(ctx, i)
		if err != nil {
			return err
		}
		req := facts
		req.Interface, req.Position, req.Attachment, req.CleanGateway = i.Name, i.Position, i.Attachment, network.CleanGateway
		for _, version := range s.families() {
			selection, err := pool.Select(s.Catalog.snapshot(), &req, version)
			if err != nil {
				return err
			}
			assigned[at].CleanGateway = assigned[at].CleanGateway || selection.CleanGateway
		}
	}
	return nil
}
