package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// Options are the installation's switches.
type Options struct {
	EnableIPv4, EnableIPv6 bool
	// FixStatefulSet and FixVirtualMachine give pods their former addresses back.
	FixStatefulSet    bool
	FixVirtualMachine bool
	// ClusterNetwork is what Multus gives pods that do not say otherwise.
	ClusterNetwork pool.ClusterNetwork
}

// Service implements the use cases of one node.
type Service struct {
	Node      string
	Options   Options
	Catalog   *PoolCatalog
	Allocator *alloc.Allocator
	Cluster   Cluster
	Owners    Owners
	Links     Links
	Endpoints Endpoints
	Events    Events
	Journal   Journal
	Runtime   Runtime
	Observer  Observer
	// Placements must be set if there may be pools with a zone.
	Placements Placements
	Now        func() time.Time
	Log        *slog.Logger
	// Admit, if set, is called with the pod of an ADD that has its addresses. The ADD waits for it, and fails with its
	// error. The addresses then stay until the DEL.
	Admit func(context.Context, wire.Attachment, Pod) error
	// MinLeaseAge is the minimum age of a lease for GC to reclaim it; see
	// reclaim.DefaultMinAge.
	MinLeaseAge time.Duration

	grantedPods grantedPods
	conflicts   conflicts
	terminating terminating
	adds        turns
}

const (
	// releaseTimeout is how long a DEL waits for the API server before it stores the
	// release on disk, and how long the replay of such a release waits.
	releaseTimeout = 5 * time.Second
	// endpointUpdateDelay batches releases, so that deleting a pod with several
	// interfaces costs one write, not one per interface.
	endpointUpdateDelay = 2 * time.Second
)

// Add grants the addresses of an interface, together with those of all the other
// interfaces of the pod that Spiderpool gives addresses to.
func (s *Service) Add(ctx context.Context, req wire.AddRequest) (wire.AddReply, error) {
	arrived := s.Allocator.Arrive()
	leave, err := s.adds.take(ctx, req.ContainerID)
	if err != nil {
		return wire.AddReply{}, &Error{Kind: Unavailable, Msg: "another ADD of the container is running", Details: err.Error()}
	}
	defer leave()
	pod, err := s.pod(ctx, req.Attachment)
	if err != nil {
		return wire.AddReply{}, err
	}
	restore, err := s.supersede(ctx, req.Attachment)
	if err != nil {
		return wire.AddReply{}, err
	}
	reply, err := s.add(ctx, pod, req, arrived)
	if err == nil {
		if err := s.awaitPlaces(ctx, pod, req, reply); err != nil {
			return wire.AddReply{}, err // the addresses stay until the DEL
		}
		if s.Admit != nil {
			err = s.Admit(ctx, req.Attachment, pod)
		}
		return reply, err
	}
	restore()
	failure := s.explain(pod, req.Interface, err)
	if failure.Kind != Unavailable {
		s.Events.AllocationFailed(pod, failure.Msg+": "+failure.Details)
	}
	return wire.AddReply{}, failure
}

// supersede removes an earlier release of the attachment from the journal, because the
// runtime wants the interface again. Call restore if the ADD fails.
func (s *Service) supersede(ctx context.Context, at wire.Attachment) (restore func(), err error) {
	kept, err := s.Journal.Supersede(ctx, at)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Msg: "could not remove the earlier release of the interface from the journal", Details: err.Error()}
	}
	if !kept {
		return func() {}, nil
	}
	return func() {
		if err := s.Journal.Begin(at)(true); err != nil {
			s.Log.Error("could not store a release on disk again; the next DEL or reclaim will release the address",
				"pod", podOf(at), "container", at.ContainerID, "interface", at.Interface, "err", err)
		}
	}, nil
}

func podOf(at wire.Attachment) lease.PodKey {
	return lease.PodKey{Namespace: at.PodNamespace, Name: at.PodName}
}

func (s *Service) add(ctx context.Context, pod Pod, req wire.AddRequest, arrived uint64) (wire.AddReply, error) {
	plan, err := s.provenPlan(ctx, pod, req)
	if err != nil {
		return wire.AddReply{}, err
	}
	plan.arrived = arrived
	if plan.proof.doubt != "" {
		s.Events.OwnerNotProven(pod, plan.proof.doubt)
	}
	if err := s.Allocator.ReadFixed(ctx, plan.proof.owner); err != nil {
		return wire.AddReply{}, err
	}
	previously := s.Allocator.AddressesOf(pod.UID, plan.proof.owner)
	assigned, err := s.allocate(ctx, pod, &plan)
	if err != nil {
		s.rollBack(ctx, pod, req.ContainerID, previously)
		return wire.AddReply{}, err
	}
	s.grantedPods.add(pod.UID, plan.owner, assigned)
	for _, l := range s.Allocator.Attached(lease.Attachment{ContainerID: req.ContainerID, Interface: req.Interface}) {
		s.Endpoints.Changed(EndpointOf(l.Holder), 0)
	}
	for _, i := range assigned {
		if i.Interface == req.Interface {
			return s.replyOf(i, plan), nil
		}
	}
	return wire.AddReply{}, fmt.Errorf("the plan of pod %s lacks interface %s", pod, req.Interface)
}

// provenPlan returns the plan with the proof of the pod's owner. A pod of another zone than its fixed address has no plan.
func (s *Service) provenPlan(ctx context.Context, pod Pod, req wire.AddRequest) (plan, error) {
	out, planned := s.plan(ctx, pod, req)
	if planned != nil && !errors.As(planned, new(pool.NoPools)) {
		return plan{}, planned
	}
	proof, err := s.prove(ctx, pod)
	if planned != nil && err != nil {
		return plan{}, planned
	}
	if err != nil {
		return plan{}, err
	}
	out.proof = proof
	if err := s.checkZone(ctx, proof.owner, out, planned); err != nil {
		return plan{}, err
	}
	if planned != nil {
		return plan{}, planned
	}
	return out, checkMachine(proof.owner, out)
}

// rollBack releases the addresses of a failed ADD: of a partly committed attempt, or of
// a grant before a later step failed. The pod keeps its earlier addresses and those
// retained for it, because a sandbox may use them.
func (s *Service) rollBack(ctx context.Context, pod Pod, container string, previously map[netip.Addr]bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := s.Allocator.RollBack(ctx, pod.UID, container, previously); err != nil {
		s.Log.Warn("could not roll back a failed ADD; the runtime's DEL will release the addresses",
			"pod", pod.PodKey, "container", container, "err", err)
	}
}

// allocate grants what the plan wants. If the pools that this node watches are
// exhausted, it tries once more with the other pools that the pod names.
func (s *Service) allocate(ctx context.Context, pod Pod, p *plan) ([]EndpointInterface, error) {
	request := lease.Request{
		Pod: pod.PodKey, PodUID: pod.UID, ContainerID: p.container, Node: s.Node, FixedFor: p.proof.owner,
	}
	try := func() ([]lease.Grant, error) {
		request.Wants = p.wants()
		for {
			grants, released, err := s.Allocator.Allocate(ctx, request, p.arrived)
			for _, l := range released {
				s.reportReplaced(l)
			}
			var used *lease.InUseError
			if !errors.As(err, &used) {
				return grants, err
			}
			if err := s.mayReplace(ctx, pod, p.proof, used.Lease); err != nil {
				return nil, err
			}
			request.Replaces = append(request.Replaces, used.Lease.PodUID)
		}
	}
	grants, err := try()
	var exhausted *lease.ExhaustedError
	if errors.As(err, &exhausted) {
		if more, widenErr := s.widen(ctx, p); widenErr != nil {
			return nil, widenErr
		} else if more {
			grants, err = try()
		}
	}
	if errors.As(err, &exhausted) {
		return nil, &noAddressError{exhausted: exhausted, rejections: p.rejections(exhausted), wants: len(p.wants())}
	}
	if err != nil {
		return nil, err
	}
	return s.assignments(ctx, *p, grants)
}

// pod finds the pod of an attachment.
func (s *Service) pod(ctx context.Context, at wire.Attachment) (Pod, error) {
	pod, err := s.Cluster.Pod(ctx, podOf(at), at.PodUID)
	switch {
	case err == nil && !s.Allocator.Loaded():
		return Pod{}, notReady(ErrNotReady)
	case err == nil:
		return pod, nil
	case errors.Is(err, ErrNotFound):
		return Pod{}, deletedPod(podOf(at), at.PodUID, err.Error())
	case errors.Is(err, ErrElsewhere):
		return Pod{}, &Error{Kind: Refused, Details: err.Error(),
			Msg: fmt.Sprintf("pod %s does not run on node %s", podOf(at), s.Node)}
	default:
		return Pod{}, notReady(err)
	}
}

func notReady(err error) *Error {
	return &Error{Kind: Unavailable, Msg: "spiderpool-agent cannot read from the API server now", Details: err.Error()}
}

// assignments converts grants to the content of the interfaces.
func (s *Service) assignments(ctx context.Context, plan plan, grants []lease.Grant) ([]EndpointInterface, error) {
	var assigned []EndpointInterface
	for _, i := range plan.interfaces {
		out := EndpointInterface{Interface: i.name, Network: i.request.Attachment, CleanGateway: i.cleanGateway}
		for _, g := range grants {
			if g.Interface != i.name {
				continue
			}
			if err := s.addAddress(ctx, &out, g.Addr, g.Pool); err != nil {
				return nil, err
			}
		}
		assigned = append(assigned, out)
	}
	return assigned, placeRoutes(assigned, plan)
}

// addAddress adds a granted address and the routes of its pool. The catalog may lack the
// pool if it was deleted, or bound to another node, after the grant.
func (s *Service) addAddress(ctx context.Context, to *EndpointInterface, addr netip.Addr, name string) error {
	p, ok := s.Catalog.Pool(name)
	var err error
	if !ok {
		p, err = s.Catalog.Pools.Get(ctx, name)
	}
	if err == nil && !p.Subnet.IsValid() {
		err = fmt.Errorf("it is invalid: %s", p.Invalid)
	}
	if err != nil {
		return fmt.Errorf("read SpiderIPPool %s of an address of the pod: %w", name, err)
	}
	to.Addresses = append(to.Addresses, EndpointAddress{Prefix: netip.PrefixFrom(addr, p.Subnet.Bits()), Gateway: p.Gateway, Pool: name})
	to.Routes = append(to.Routes, p.Routes...)
	return nil
}

// placeRoutes adds each route of the pod's annotation to the interface whose subnet
// contains the next hop, and merges it with the routes of the pool. If no interface of
// ours does, another plugin's interface may be meant, and the route is left out; a pod
// with only our interfaces gets an error.
func placeRoutes(assigned []EndpointInterface, p plan) error {
	placed := make([][]inet.Route, len(assigned))
	for _, r := range p.routes {
		i := slices.IndexFunc(assigned, func(i EndpointInterface) bool {
			return slices.ContainsFunc(i.subnets(), func(s netip.Prefix) bool { return s.Contains(r.Via) })
		})
		if i < 0 && p.foreign {
			continue
		}
		fault := ""
		if i < 0 {
			var subnets []netip.Prefix
			for _, i := range assigned {
				subnets = append(subnets, i.subnets()...)
			}
			fault = fmt.Sprintf("is in no subnet of the pod's interfaces, %v", subnets)
		} else {
			fault = inet.NextHopFault(r.Via, assigned[i].subnets()...)
		}
		if fault != "" {
			return &pool.AnnotationError{
				Annotation: names.AnnotationPodRoutes, Value: r.String(), Reason: "the gateway " + fault,
				Example: `[{"dst":"10.0.0.0/8","gw":"an address of such a subnet"}]`,
			}
		}
		placed[i] = append(placed[i], r)
	}
	for i := range assigned {
		assigned[i].Routes = inet.MergeRoutes(assigned[i].own(), assigned[i].Routes, placed[i])
	}
	return nil
}

func (s *Service) replyOf(i EndpointInterface, p plan) wire.AddReply {
	reply := wire.AddReply{DNS: wire.DNS{Nameservers: p.dns.Nameservers, Domain: p.dns.Domain, Search: p.dns.Search, Options: p.dns.Options}}
	var defaults []inet.Route
	for _, a := range i.Addresses {
		address := wire.Address{Prefix: a.Prefix, Pool: a.Pool, Shared: len(s.Allocator.FormerOf(a.Prefix.Addr())) > 0}
		if a.Gateway.IsValid() && !i.CleanGateway {
			address.Gateway = a.Gateway
			defaults = append(defaults, inet.Route{Dst: inet.FamilyOf(a.Gateway).Everything(), Via: a.Gateway})
		}
		reply.Addresses = append(reply.Addresses, address)
	}
	reply.Routes = inet.MergeRoutes(i.own(), defaults, i.Routes)
	return reply
}

// Check returns an error unless the attachment holds exactly the addresses.
func (s *Service) Check(_ context.Context, req wire.CheckRequest) error {
	if !s.Allocator.Loaded() {
		return notReady(ErrNotReady)
	}
	held := []netip.Addr{}
	at := lease.Attachment{ContainerID: req.ContainerID, Interface: req.Interface}
	for _, l := range s.Allocator.HeldFor(0) {
		if l.Attachment == at { // also as a former sandbox, e.g. of a machine in a live migration
			held = append(held, l.Addr)
		}
	}
	asked := slices.Clone(req.Addresses)
	slices.SortFunc(held, netip.Addr.Compare)
	slices.SortFunc(asked, netip.Addr.Compare)
	if !slices.Equal(held, asked) {
		return &Error{
			Kind: Mismatch,
			Msg: fmt.Sprintf("interface %s of pod %s should hold %v, but its leases are for %v",
				req.Interface, podOf(req.Attachment), asked, held),
			Details: "delete the pod, and its replacement gets its own addresses",
		}
	}
	return nil
}
