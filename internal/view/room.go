package view

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// maxOffer is the largest offer of a node. No node runs as many pods, and a pool of IPv6
// addresses would offer more than people can read.
const maxOffer = 1 << 16

// Rooms tells how many pods get addresses on the nodes with pools of their own, e.g. in a
// cloud: those of each attachment in spec.multusName of a default pool with one node.
//
// The count is that of Capacity for a pod without annotations and labels, with two
// differences. Affinities to pods and namespaces do not count, and retained addresses do,
// because their owners will want them. So Rooms never reports a node as full for a pod with
// a right to addresses there, and may report room for a pod without one.
//
// Addresses that the controller assigns on demand count as free (SpiderCloudNetwork, mode Manage). Otherwise no pod would come to
// a full node, and no waiting pod would create the demand.
type Rooms struct {
	state    *State
	families []inet.Family
	pools    nodePools
	networks []pool.NetworkAttachment
	fill     filler
}

// Rooms returns the rooms of nodes. families are the IP versions of the installation.
func (s *State) Rooms(families []inet.Family) *Rooms {
	r := &Rooms{state: s, families: families, pools: newNodePools(), fill: filler{free: map[string]int64{}}}
	found := map[pool.NetworkAttachment]bool{}
	for _, name := range s.pools.Names() {
		p, _ := s.pools.Get(name)
		if !p.Default {
			continue
		}
		usage := s.index.Usage(name)
		r.fill.free[name] = saturated(saturated(usage.Free, usage.Retained), p.Assignable)
		open := *p
		open.PodAffinity, open.NamespaceAffinity, open.NamespaceNames = nil, nil, nil
		if !r.pools.add(&open) {
			continue
		}
		for _, entry := range p.MultusNames {
			if namespace, name, ok := strings.Cut(entry, "/"); ok {
				found[pool.NetworkAttachment{Namespace: namespace, Name: name}] = true
			}
		}
	}
	r.networks = slices.SortedFunc(maps.Keys(found), func(a, b pool.NetworkAttachment) int { return strings.Compare(a.String(), b.String()) })
	return r
}

// nodePools has the pools by the agents that watch them. So a question about all nodes compares no node with the pools of
// the others.
type nodePools struct {
	own    map[string][]*pool.Pool // by the only node
	shared *pool.Catalog           // of all nodes, or several
}

func newNodePools() nodePools {
	return nodePools{own: map[string][]*pool.Pool{}, shared: pool.NewCatalog()}
}

// add reports whether the pool is one node's own.
func (n *nodePools) add(p *pool.Pool) (own bool) {
	if len(p.NodeNames) != 1 {
		n.shared.Set(p)
		return false
	}
	n.own[p.NodeNames[0]] = append(n.own[p.NodeNames[0]], p)
	return true
}

// of returns what the agent of a node watches. Do not change it.
func (n *nodePools) of(node string) *pool.Catalog {
	own := n.own[node]
	if len(own) == 0 {
		return n.shared
	}
	catalog := n.shared.Clone()
	for _, p := range own {
		catalog.Set(p)
	}
	return catalog
}

// Attachments returns the attachments, sorted.
func (r *Rooms) Attachments() []pool.NetworkAttachment { return r.networks }

// Of returns, for each attachment with a default pool on the node, how many more pods with
// one interface on it get addresses there, at most maxOffer.
func (r *Rooms) Of(node pool.NodeFacts) map[pool.NetworkAttachment]int64 {
	catalog := r.pools.of(node.Name)
	rooms := map[pool.NetworkAttachment]int64{}
	for _, attachment := range r.networks {
		request := pool.Request{Node: node, Interface: pool.FirstInterface, Attachment: attachment}
		selections, err := pool.SelectAll(catalog, &request, r.families)
		var slots []slot
		for _, selection := range selections {
			slots = append(slots, slot{request.Interface, selection.Family, selection.Names()})
		}
		switch {
		case err == nil:
			rooms[attachment], _ = r.fill.fill(slots, map[string]int64{}, maxOffer)
		case slices.ContainsFunc(r.pools.own[node.Name], func(p *pool.Pool) bool { return slices.Contains(p.MultusNames, attachment.String()) }):
			rooms[attachment] = 0 // e.g. its pool is disabled
		}
	}
	return rooms
}

// Holders returns the UIDs of the pods with an address in use.
func (s *State) Holders() map[string]bool {
	uids := map[string]bool{}
	for l := range s.leases(Filter{}) {
		if l.State == lease.InUse && !l.OfFormer() {
			uids[l.PodUID] = true
		}
	}
	return uids
}

// OfferLeft is how many pods the scheduler still places on a node by one resource.
type OfferLeft struct {
	Resource string
	Pods     int64
	// Offered is the node's offer, and Requested what its pods request.
	Offered, Requested int64
}

// OffersLeft returns what a node has left of the addresses that a further pod requests,
// sorted by name. requested is what the pods of the node request already.
func OffersLeft(node *corev1.Node, requested, further corev1.ResourceList) []OfferLeft {
	var left []OfferLeft
	for _, name := range slices.Sorted(maps.Keys(further)) {
		each, offered, taken := further[name], node.Status.Allocatable[name], requested[name]
		if each.Value() > 0 {
			pods := max(0, offered.Value()-taken.Value()) / each.Value()
			left = append(left, OfferLeft{Resource: string(name), Pods: pods, Offered: offered.Value(), Requested: taken.Value()})
		}
	}
	return left
}

// Claim is what a pod of a node requests of a resource. Only pods that the scheduler
// counts have one: those with a node, until they have Succeeded or Failed.
type Claim struct {
	Count int64
	// Held says that the pod has its addresses. A pod gets all of them together.
	Held bool
}

// Offer returns what a node with this room offers to the scheduler: the claims of pods that
// have their addresses, and the room. The scheduler subtracts the claims of all pods, so it
// sees the room less the claims of pods that still wait for their addresses.
//
// The offer stays the same while pods come, get addresses, lose them and go, because an
// address leaves the room when a claim becomes held. It is never less than all claims
// together: a kubelet that restarts would reject pods that run.
func Offer(room int64, claims []Claim) int64 {
	var held, waiting int64
	for _, c := range claims {
		count := min(max(c.Count, 0), maxOffer)
		if c.Held {
			held += count
		} else {
			waiting += count
		}
	}
	return min(held+max(room, waiting), maxOffer)
}
