package ipam

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// plan is the addresses that a pod needs: all its interfaces, each with the candidate
// pools of each IP family.
type plan struct {
	container  string
	owner      Controller // the top controller of the pod
	proof      proof      // of the owner of its fixed addresses
	arrived    uint64     // see Allocator.Arrive
	interfaces []plannedInterface
	foreign    bool         // the pod has interfaces that others give addresses to
	reads      liveReads    // of pools
	routes     []inet.Route // annotation ipam.spidernet.io/routes
	dns        pool.DNS     // annotation ipam.spidernet.io/dns
}

type plannedInterface struct {
	name         string
	request      pool.Request
	selections   []pool.Selection
	cleanGateway bool
}

func (p plan) wants() []lease.Want {
	var wants []lease.Want
	for _, i := range p.interfaces {
		for _, s := range i.selections {
			wants = append(wants, lease.Want{Interface: i.name, Family: s.Family, Pools: s.Names()})
		}
	}
	return wants
}

// rejections returns the pools rejected in the selection whose pools are exhausted.
func (p plan) rejections(exhausted *lease.ExhaustedError) []pool.Rejection {
	for _, i := range p.interfaces {
		for _, s := range i.selections {
			if i.name == exhausted.Interface && s.Family == exhausted.Family {
				return s.Rejections
			}
		}
	}
	return nil
}

// maxMissing bounds how many failures of one ADD are explained, because each may read
// pools from the API server.
const maxMissing = 8

// plan returns the interfaces of the pod and their candidate pools.
func (s *Service) plan(ctx context.Context, pod Pod, req wire.AddRequest) (plan, error) {
	out := plan{container: req.ContainerID}
	if err := out.readAnnotations(pod.Annotations); err != nil {
		return plan{}, err
	}
	interfaces, err := pool.Interfaces(pod.Namespace, pod.Annotations, s.Options.ClusterNetwork)
	if err != nil {
		return plan{}, err
	}
	if err := checkNamed(pod, interfaces, req.Interface); err != nil {
		return plan{}, err
	}
	facts, owner, err := s.facts(ctx, pod)
	if err != nil {
		return plan{}, err
	}
	out.owner = owner
	requested := false
	var missing pool.NoPools
	for _, i := range interfaces {
		network := networkOf(req)
		if i.Name == req.Interface {
			requested = true
		} else if network, err = s.sibling(ctx, i); err != nil {
			return plan{}, err
		} else if !network.IPAM {
			out.foreign = true
			continue
		}
		var none pool.NoPools
		if err := s.addInterface(ctx, &out, facts, i, network); errors.As(err, &none) {
			if missing = append(missing, none...); len(missing) >= maxMissing {
				break
			}
		} else if err != nil {
			return plan{}, err
		}
	}
	if len(missing) > 0 {
		return plan{}, missing
	}
	if !requested {
		// No annotation names this interface, so it is attached by hand. There may be
		// others.
		out.foreign = true
		i := pool.PodInterface{Name: req.Interface, Position: len(interfaces)}
		if err := s.addInterface(ctx, &out, facts, i, networkOf(req)); err != nil {
			return plan{}, err
		}
	}
	return out, nil
}

// CheckAnnotations returns a *pool.AnnotationError if the pod gets no address because of its
// annotation for routes, DNS or automatic pools.
func CheckAnnotations(annotations map[string]string) error {
	return new(plan).readAnnotations(annotations)
}

// readAnnotations reads the routes and the DNS settings of the pod.
func (p *plan) readAnnotations(annotations map[string]string) (err error) {
	for _, key := range []string{names.AnnotationPodSubnet, names.AnnotationPodSubnets, names.AnnotationPodPoolIPNumber, names.AnnotationPodPoolReclaim} {
		if value, ok := annotations[key]; ok {
			return &pool.AnnotationError{
				Annotation: key, Value: value,
				Reason:  "this release makes no automatic pools; create a SpiderIPPool and name it in " + names.AnnotationPodIPPool + " instead",
				Example: names.AnnotationPodIPPool + `: {"ipv4":["pool-v4"]}`,
			}
		}
	}
	if value, ok := annotations[names.AnnotationPodRoutes]; ok {
		if p.routes, err = pool.ParseRoutes(value); err != nil {
			return err
		}
	}
	if value, ok := annotations[names.AnnotationPodDNS]; ok {
		p.dns, err = pool.ParseDNS(value)
	}
	return err
}

// checkNamed checks that the pod has the interfaces in its annotation ippools.
func checkNamed(pod Pod, interfaces []pool.PodInterface, requested string) error {
	var have []string
	for _, i := range interfaces {
		have = append(have, i.Name)
	}
	if !slices.Contains(have, requested) {
		have = append(have, requested)
	}
	return pool.CheckInterfaces(pod.Annotations, have)
}

func networkOf(req wire.AddRequest) Network {
	return Network{
		IPAM: true, Name: req.Network, Master: req.Master,
		Pools:        pool.Names{IPv4: req.DefaultIPv4Pools, IPv6: req.DefaultIPv6Pools},
		CleanGateway: req.CleanGateway, MatchMasterSubnet: req.MatchMasterSubnet,
	}
}

// sibling reads the configuration of another interface of the pod. Multus reports an
// attachment that does not exist.
func (s *Service) sibling(ctx context.Context, i pool.PodInterface) (Network, error) {
	if i.Attachment == (pool.NetworkAttachment{}) {
		return Network{}, nil
	}
	network, err := s.Cluster.Network(ctx, i.Attachment)
	if errors.Is(err, ErrNotFound) {
		return Network{}, nil
	}
	if err != nil {
		return Network{}, fmt.Errorf("read network attachment %s of interface %s: %w", i.Attachment, i.Name, err)
	}
	return network, nil
}

// facts returns the part of the request that all interfaces of a pod share, and the
// top controller of the pod.
func (s *Service) facts(ctx context.Context, pod Pod) (pool.Request, Controller, error) {
	namespace, err := s.Cluster.Namespace(ctx, pod.Namespace)
	if err != nil {
		return pool.Request{}, Controller{}, fmt.Errorf("read namespace %s: %w", pod.Namespace, err)
	}
	node, err := s.Cluster.Node(ctx)
	if err != nil {
		return pool.Request{}, Controller{}, fmt.Errorf("read node %s: %w", s.Node, err)
	}
	top, err := s.Cluster.TopController(ctx, pod)
	if err != nil {
		return pool.Request{}, Controller{}, fmt.Errorf("find the top controller of pod %s: %w", pod, err)
	}
	return pool.Request{
		Pod: pool.PodFacts{
			Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: pod.Annotations,
			App: AppOf(pod.Namespace, top),
		},
		Namespace: namespace,
		Node:      node,
	}, top, nil
}

// InterfaceRequest returns the request for the pools of one interface, given the facts about the
// pod, its namespace and its node. With MatchMasterSubnet, the caller adds the MasterSubnets.
func InterfaceRequest(facts pool.Request, i pool.PodInterface, network Network) pool.Request {
	req := facts
	req.Interface, req.Position, req.Attachment = i.Name, i.Position, i.Attachment
	req.Configured, req.CleanGateway, req.MatchMasterSubnet = network.Pools, network.CleanGateway, network.MatchMasterSubnet
	return req
}

func (s *Service) addInterface(ctx context.Context, out *plan, facts pool.Request, i pool.PodInterface, network Network) error {
	req := InterfaceRequest(facts, i, network)
	if network.MatchMasterSubnet {
		subnets, err := s.Links.Subnets(network.Master)
		if err != nil {
			return &Error{Kind: Invalid, Details: err.Error(),
				Msg: fmt.Sprintf("match_master_subnet: cannot read the addresses of master %q of interface %s", network.Master, i.Name)}
		}
		req.MasterSubnets = subnets
	}
	selections, err := s.Catalog.Select(ctx, &out.reads, &req, s.families(), false)
	var none pool.NoPools
	if errors.As(err, &none) {
		// The sandbox keeps its addresses, even if their pools changed.
		selections, err = s.held(&req, lease.Attachment{ContainerID: out.container, Interface: i.Name}, none)
	}
	if err != nil {
		return err
	}
	out.interfaces = append(out.interfaces, plannedInterface{
		name: i.Name, request: req, selections: selections,
		cleanGateway: slices.ContainsFunc(selections, func(s pool.Selection) bool { return s.CleanGateway }),
	})
	return nil
}

// held selects, for every IP family, the pool of the address that the attachment
// holds, or else the candidate pools. It returns none as the error if a family has
// neither.
func (s *Service) held(req *pool.Request, at lease.Attachment, none pool.NoPools) ([]pool.Selection, error) {
	leases := s.Allocator.Attached(at)
	if len(leases) == 0 {
		return nil, none
	}
	var selections []pool.Selection
	for _, family := range s.families() {
		selection, err := pool.Select(s.Catalog.snapshot(), req, family)
		if err != nil {
			return nil, err
		}
		for _, l := range leases {
			if inet.FamilyOf(l.Addr) == family {
				selection.Pools = []*pool.Pool{{Name: l.Pool, Family: family}}
			}
		}
		switch {
		case len(selection.Pools) > 0:
			selections = append(selections, selection)
		case selection.Asked():
			return nil, none
		}
	}
	return selections, nil
}

// widen selects again, for interfaces whose pools are exhausted, with the named pools
// that this node does not watch. It reports whether that found a new candidate.
func (s *Service) widen(ctx context.Context, p *plan) (bool, error) {
	more := false
	for i := range p.interfaces {
		planned := &p.interfaces[i]
		if !slices.ContainsFunc(planned.selections, namesUnknown) {
			continue
		}
		var families []inet.Family
		before, after := 0, 0
		for _, selection := range planned.selections {
			families, before = append(families, selection.Family), before+len(selection.Pools)
		}
		wide, err := s.Catalog.Select(ctx, &p.reads, &planned.request, families, true)
		var none pool.NoPools
		if errors.As(err, &none) {
			continue // only addresses that the sandbox has already
		}
		if err != nil {
			return false, err
		}
		for _, selection := range wide {
			after += len(selection.Pools)
		}
		more = more || after > before
		planned.selections = wide
	}
	return more, nil
}

func (s *Service) families() []inet.Family {
	var families []inet.Family
	if s.Options.EnableIPv4 {
		families = append(families, 4)
	}
	if s.Options.EnableIPv6 {
		families = append(families, 6)
	}
	return families
}
