// Package view answers the questions of operators: who has this address, which pool is
// full, why did this pod get no address. The answers are values; the commands of
// spiderpoolctl only draw them.
//
// A State is made from objects of the API server. It selects and counts with the packages of
// the agent, pool and lease, so it explains the agent's decisions rather than its own.
//
// Pure: no I/O; the time is passed in.
package view

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Objects are the custom resources of a cluster. A question that does not concern one of the
// kinds leaves it out.
type Objects struct {
	Pools     []*v2beta1.SpiderIPPool
	Reserved  []*v2beta1.SpiderReservedIP
	Blocks    []*v2beta1.SpiderIPBlock
	Endpoints []*v2beta1.SpiderEndpoint
}

// Pointers returns the items of a list as Objects has them. They stay those of the list.
func Pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}

// State is a cluster at one time.
type State struct {
	now       time.Time
	objects   Objects
	pools     *pool.Catalog
	reserved  map[string]inet.Set // by SpiderReservedIP
	index     *lease.Index
	endpoints map[lease.PodKey]*v2beta1.SpiderEndpoint
	damaged   map[netip.Addr]Finding // by the first address of the block
	macs      map[podInterface]string
	// byNode returns the leases of each node. It indexes them at its first call: a page of all nodes asks for each.
	byNode func() map[string][]lease.Lease
}

type podInterface struct{ uid, name string }

// Finding is a problem with its way out.
type Finding struct {
	Subject string `json:"subject"` // e.g. "SpiderIPPool blue"
	Problem string `json:"problem"`
	Remedy  string `json:"remedy"`
}

// NewState returns the state of the objects at the time now.
func NewState(o Objects, now time.Time) *State {
	s := &State{
		now: now, objects: o, pools: pool.NewCatalog(), reserved: map[string]inet.Set{}, index: lease.NewIndex(lease.Options{}), damaged: map[netip.Addr]Finding{},
		endpoints: make(map[lease.PodKey]*v2beta1.SpiderEndpoint, len(o.Endpoints)), macs: map[podInterface]string{},
	}
	sets := make([]inet.Set, 0, len(o.Reserved))
	for _, object := range o.Reserved {
		set, _ := compile.ReservedIP(object) // the condition Ready of the object has the errors
		s.reserved[object.Name] = set
		sets = append(sets, set)
	}
	s.pools.SetReserved(inet.Union(sets...))
	for _, object := range o.Pools {
		s.pools.Set(compile.StoredPool(object))
	}
	for _, name := range s.pools.Names() {
		s.index.SetPool(name, s.pools.Usable(name))
	}
	for _, object := range o.Blocks {
		s.addBlock(object)
	}
	s.AddEndpoints(o.Endpoints...)
	s.byNode = sync.OnceValue(s.indexNodes)
	return s
}

func (s *State) indexNodes() map[string][]lease.Lease {
	index := map[string][]lease.Lease{}
	for l := range s.leases(Filter{}) {
		index[l.Node] = append(index[l.Node], l)
	}
	return index
}

// AddEndpoints adds endpoints to a state without all of them.
func (s *State) AddEndpoints(endpoints ...*v2beta1.SpiderEndpoint) {
	for _, object := range endpoints {
		s.endpoints[lease.PodKey{Namespace: object.Namespace, Name: object.Name}] = object
	}
}

// AddInterfaces takes the hardware addresses of a pod's interfaces from the annotation
// that Multus writes, k8s.v1.cni.cncf.io/network-status. Who may edit the pod may write
// it, too.
func (s *State) AddInterfaces(object *corev1.Pod) {
	var interfaces []nadv1.NetworkStatus
	if json.Unmarshal([]byte(object.Annotations[nadv1.NetworkStatusAnnot]), &interfaces) != nil {
		return
	}
	for _, i := range interfaces {
		s.macs[podInterface{compile.PodUID(object.UID, object.Annotations), i.Interface}] = i.Mac
	}
}

func (s *State) addBlock(object *v2beta1.SpiderIPBlock) {
	block, ok := compile.StoredBlock(object)
	if !ok {
		return // no program reads it
	}
	if block.Damaged != "" {
		s.damaged[block.Base] = Finding{
			Subject: "SpiderIPBlock " + object.Name, Problem: "another program damaged it, so no pod gets its addresses: " + block.Damaged,
			Remedy: "compare kubectl get spideripblock " + object.Name + " -o yaml with docs/reference/api.md, and correct it",
		}
	}
	for _, l := range block.Leases {
		if l.State == lease.Quarantined && !l.Until.IsZero() && !s.now.Before(l.Until) {
			block = block.With(lease.Lease{Addr: l.Addr, State: lease.Released, Since: l.Until})
		}
	}
	s.index.Put(block, s.now)
}

// StateFormer is the state of an address with a former sandbox: the sandbox lost its lease,
// but may still use the address.
const StateFormer = "Former"

// Address is one address with its holder.
type Address struct {
	Addr netip.Addr `json:"address"`
	// State is InUse, Retained, Quarantined, Withheld or Former.
	State     string `json:"state"`
	Pool      string `json:"pool,omitempty"`
	Pod       string `json:"pod,omitempty"` // "namespace/name"
	PodUID    string `json:"podUID,omitempty"`
	Interface string `json:"interface,omitempty"`
	Node      string `json:"node,omitempty"`
	// Workload is the top controller of the pod by its SpiderEndpoint, e.g. "Deployment/shop/web".
	Workload string `json:"workload,omitempty"`
	// FixedFor is the owner of a fixed address.
	FixedFor string `json:"fixedFor,omitempty"`
	// MAC is that of the interface or, for a quarantined address, of the foreign host.
	MAC         string    `json:"mac,omitempty"`
	ContainerID string    `json:"containerID,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Until       time.Time `json:"until,omitzero"` // end of a quarantine
	// WithheldBy is the SpiderCloudNetwork that withholds the address.
	WithheldBy string `json:"withheldBy,omitempty"`
}

// Filter selects addresses. Empty fields select all.
type Filter struct {
	Pool, Node, Namespace string
	// Pod selects the addresses of pods of this name, and those fixed for it.
	Pod lease.PodKey
}

// leases yields the leases and former sandboxes.
func (s *State) leases(f Filter) iter.Seq[lease.Lease] {
	return func(yield func(lease.Lease) bool) {
		if f.Node != "" {
			for _, l := range s.byNode()[f.Node] {
				if f.selects(l) && !yield(l) {
					return
				}
			}
			return
		}
		for block := range s.index.Blocks() {
			for _, l := range block.Leases {
				if l.State != lease.Released && f.selects(l) && !yield(l) {
					return
				}
			}
			for _, former := range block.Former {
				if l := former.AsLease(); f.selects(l) && !yield(l) {
					return
				}
			}
		}
	}
}

// EndpointsOf returns the names of the endpoints of some addresses.
func (s *State) EndpointsOf(f Filter) map[lease.PodKey]bool {
	keys := map[lease.PodKey]bool{}
	for l := range s.leases(f) {
		for _, key := range []lease.PodKey{l.Pod, l.FixedFor.Key()} {
			if key != (lease.PodKey{}) {
				keys[key] = true
			}
		}
	}
	return keys
}

// Addresses returns the addresses that are not free, sorted.
func (s *State) Addresses(f Filter) []Address {
	all := []Address{}
	for l := range s.leases(f) {
		all = append(all, s.address(l))
	}
	slices.SortFunc(all, func(a, b Address) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.State, b.State), cmp.Compare(a.ContainerID, b.ContainerID))
	})
	return all
}

func (f Filter) selects(l lease.Lease) bool {
	return (f.Pool == "" || l.Pool == f.Pool) && (f.Node == "" || l.Node == f.Node) && (f.Namespace == "" || l.Pod.Namespace == f.Namespace) &&
		(f.Pod == lease.PodKey{} || l.Pod == f.Pod || l.FixedFor == lease.Owner{Kind: lease.KindPod, Namespace: f.Pod.Namespace, Name: f.Pod.Name})
}

func (s *State) address(l lease.Lease) Address {
	a := Address{
		Addr: l.Addr, State: string(l.State), Pool: l.Pool, Pod: l.Pod.String(), PodUID: l.PodUID, Interface: l.Interface, Node: l.Node,
		FixedFor: l.FixedFor.String(), ContainerID: l.ContainerID, MAC: l.MAC, Since: l.Since, Until: l.Until, WithheldBy: l.WithheldBy,
	}
	if l.OfFormer() {
		a.State = StateFormer
		return a
	}
	if l.State == lease.InUse {
		a.MAC = s.macs[podInterface{l.PodUID, l.Interface}]
	}
	endpoint, ok := s.endpoints[l.Pod]
	if !ok {
		endpoint, ok = s.endpoints[l.FixedFor.Key()]
	}
	if !ok || endpoint.Status.Current.UID != l.PodUID {
		return a
	}
	if kind := endpoint.Status.OwnerControllerType; kind != "" {
		a.Workload = fmt.Sprintf("%s/%s/%s", kind, l.Pod.Namespace, endpoint.Status.OwnerControllerName)
	}
	for i := range endpoint.Status.Current.IPs {
		if ip := &endpoint.Status.Current.IPs[i]; ip.Interface == l.Interface && ip.MAC != nil {
			a.MAC = *ip.MAC
		}
	}
	return a
}
