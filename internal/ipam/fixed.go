package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	var waiting []netip.Addr
	var reasons []string
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
		if err := s.Placements.Await(ctx, a.Pool, a.Prefix.Addr(), pod.UID); err != nil { // at once after the end of ctx
			waiting, reasons = append(waiting, a.Prefix.Addr()), append(reasons, err.Error())
		}
	}
	switch len(waiting) {
	case 0:
		return nil
	case 1:
		return &Error{
			Kind:    Unavailable,
			Msg:     fmt.Sprintf("interface %s of pod %s waits for its fixed address %s on node %s", req.Interface, pod, waiting[0], s.Node),
			Details: fmt.Sprintf("the controller has not put it on the node's network interface in %s: %s; the kubelet tries again, and the pod keeps the address", placeTimeout, reasons[0]),
		}
	}
	for i, a := range waiting {
		reasons[i] = a.String() + ": " + reasons[i]
	}
	return &Error{
		Kind:    Unavailable,
		Msg:     fmt.Sprintf("interface %s of pod %s waits for its fixed addresses %s on node %s", req.Interface, pod, listOf(waiting), s.Node),
		Details: fmt.Sprintf("the controller has not put them on the node's network interface in %s: %s; the kubelet tries again, and the pod keeps the addresses", placeTimeout, strings.Join(reasons, "; ")),
	}
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
	var addrs []netip.Addr
	var interfaces, zones []string
	for _, l := range s.Allocator.FixedFor(owner) {
		if outside[l.Interface][l.Pool] {
			home, _ := s.Catalog.Pool(l.Pool)
			addrs, interfaces, zones = append(addrs, l.Addr), append(interfaces, l.Interface), append(zones, home.Zone)
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	node, err := s.Cluster.Node(ctx)
	if err != nil {
		return fmt.Errorf("read node %s: %w", s.Node, err)
	}
	return elsewhere(owner, s.Node, node.Labels[zoneLabel], addrs, interfaces, zones)
}

// elsewhere refuses a pod on a node outside of the zones of its fixed addresses.
func elsewhere(owner lease.Owner, node, zone string, addrs []netip.Addr, interfaces, zones []string) *Error {
	slices.SortFunc(addrs, netip.Addr.Compare)
	interfaces, zones = distinct(interfaces), distinct(zones)
	where, what, release := "interface ", fmt.Sprintf("address %s works", addrs[0]), ""
	if len(interfaces) > 1 {
		where = "interfaces "
	}
	if len(addrs) > 1 {
		what = fmt.Sprintf("addresses %s work", listOf(addrs))
		release = ", the same for " + listOf(addrs[1:])
	}
	home := "zone " + strings.Join(zones, " and zone ")
	return &Error{
		Kind: NoAddress,
		Msg:  fmt.Sprintf("%s%s of %s gets no address on node %s: its fixed %s in %s only, and the node is in zone %q", where, strings.Join(interfaces, ", "), owner, node, what, home, zone),
		Details: fmt.Sprintf("give the pod a node of %s, e.g. with a node affinity for %s, or let it have other addresses: run spiderpoolctl release %s --force%s, and the kubelet tries again",
			home, zoneLabel, addrs[0], release),
	}
}

// distinct returns each text once, in order.
func distinct(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

// maxListed is the number of addresses in one list of an error. An event has room for two lists with IPv6 addresses.
const maxListed = 6

// listOf returns addresses as text, e.g. "10.0.0.16 and fd00::16".
func listOf(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs[:min(len(addrs), maxListed)] {
		texts = append(texts, a.String())
	}
	if more := len(addrs) - maxListed; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more (spiderpoolctl ip list shows them)", more))
	}
	last := len(texts) - 1
	if last == 0 {
		return texts[0]
	}
	return strings.Join(texts[:last], ", ") + " and " + texts[last]
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
