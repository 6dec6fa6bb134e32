package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// ErrAway is what every access to the API server fails with while World.Away.
var ErrAway = errors.New("the API server does not answer")

// World is a cluster in memory: everything that the use cases of package ipam see
// through their ports. Its methods and fields are for one goroutine; requests of
// services may run concurrently between them.
type World struct {
	Store   *Store
	Options ipam.Options
	// Log gets what services log; nil discards it.
	Log *slog.Logger

	mu         sync.Mutex
	now        time.Time
	away       bool
	pods       map[string]*WorldPod // "namespace/name"
	namespaces map[string]pool.NamespaceFacts
	nodes      map[string]pool.NodeFacts
	networks   map[pool.NetworkAttachment]ipam.Network
	subnets    map[string][]netip.Prefix // of links, by node/link
	pools      map[string]*pool.Pool
	unlabelled map[string]bool
	reserved   inet.Set
	endpoints  map[string]ipam.Endpoint
	events     []string
	sandboxes  map[string]map[string]string // pod UIDs by node and ID
	mute       map[string]bool              // nodes whose runtime does not answer
	notReady   map[string]bool              // nodes
	services   map[string]*ipam.Service
	journals   map[string]*memoryJournal
}

// WorldPod is a pod of a World.
type WorldPod struct {
	ipam.Pod
	Node  string
	Top   ipam.Controller // the zero value: the pod's owner, or the pod
	State reclaim.Pod
}

// NewWorld returns an empty cluster at the time.
func NewWorld(now time.Time) *World {
	w := &World{
		Store:   &Store{},
		Options: ipam.Options{EnableIPv4: true, EnableIPv6: true},
		now:     now,
		pods:    map[string]*WorldPod{}, namespaces: map[string]pool.NamespaceFacts{}, nodes: map[string]pool.NodeFacts{},
		networks: map[pool.NetworkAttachment]ipam.Network{}, subnets: map[string][]netip.Prefix{},
		pools: map[string]*pool.Pool{}, unlabelled: map[string]bool{}, endpoints: map[string]ipam.Endpoint{},
		sandboxes: map[string]map[string]string{}, mute: map[string]bool{}, notReady: map[string]bool{}, services: map[string]*ipam.Service{}, journals: map[string]*memoryJournal{},
	}
	w.Store.Before = func(string, netip.Addr) error { return w.reach() }
	return w
}

// Close ends all services.
func (w *World) Close() {
	for _, s := range w.services {
		s.Allocator.Close()
	}
}

func (w *World) reach() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return ErrAway
	}
	return nil
}

// Now is the time.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// Advance lets time pass.
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// SetAway makes the API server unreachable, or reachable again.
func (w *World) SetAway(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

// SetNode adds or replaces a node.
func (w *World) SetNode(facts pool.NodeFacts) { w.nodes[facts.Name] = facts }

// SetNamespace adds or replaces a namespace.
func (w *World) SetNamespace(facts pool.NamespaceFacts) { w.namespaces[facts.Name] = facts }

// SetNetwork adds or replaces a network attachment.
func (w *World) SetNetwork(name pool.NetworkAttachment, network ipam.Network) {
	w.networks[name] = network
}

// SetLink gives a link of a node addresses in the networks.
func (w *World) SetLink(node, link string, subnets ...netip.Prefix) {
	w.subnets[node+"/"+link] = subnets
}

// SetPod adds or replaces a pod.
func (w *World) SetPod(p WorldPod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[p.Namespace+"/"+p.Name] = &p
}

// Pod returns a pod by "namespace/name".
func (w *World) Pod(key string) (*WorldPod, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.pods[key]
	return p, ok
}

// DeletePod removes a pod, as if nobody had to terminate it.
func (w *World) DeletePod(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, key)
}

// SetPool adds or replaces a pool and tells the nodes that watch it. One without a
// label is seen by those only who ask for it.
func (w *World) SetPool(p *pool.Pool, labelled bool) {
	w.mu.Lock()
	w.pools[p.Name], w.unlabelled[p.Name] = p, !labelled
	services := maps.Clone(w.services)
	w.mu.Unlock()
	for node, s := range services {
		w.tell(node, s.Allocator, p)
	}
}

func (w *World) tell(node string, a *ipam.Allocator, p *pool.Pool) {
	if w.unlabelled[p.Name] {
		return
	}
	if len(p.NodeNames) == 1 && p.NodeNames[0] != node {
		a.DeletePool(p.Name)
		return
	}
	a.SetPool(p)
}

// DeletePool removes a pool.
func (w *World) DeletePool(name string) {
	w.mu.Lock()
	delete(w.pools, name)
	services := maps.Clone(w.services)
	w.mu.Unlock()
	for _, s := range services {
		s.Allocator.DeletePool(name)
	}
}

// SetReserved replaces the reserved addresses.
func (w *World) SetReserved(set inet.Set) {
	w.reserved = set
	for _, s := range w.services {
		s.Allocator.SetReserved(set)
	}
}

// Sandbox makes a sandbox of the pod with the UID in the runtime of the node.
func (w *World) Sandbox(node, id, podUID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sandboxes[node] == nil {
		w.sandboxes[node] = map[string]string{}
	}
	w.sandboxes[node][id] = podUID
}

// SetNodeReady says whether the node is ready, as it is at first.
func (w *World) SetNodeReady(node string, ready bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notReady[node] = !ready
}

// SetRuntimeAway lets the runtime of the node not answer, or answer again.
func (w *World) SetRuntimeAway(node string, away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute[node] = away
}

// Service returns the service of a node, and starts it if need be.
func (w *World) Service(node string) *ipam.Service {
	if s, ok := w.services[node]; ok {
		return s
	}
	log := w.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var s *ipam.Service
	allocator := ipam.NewAllocator(ipam.Config{Node: node, Blocks: w.Store, Older: w.Store.Older, Now: w.Now, Log: log, Observer: discard{},
		SearchEvery: -1, // time here does not pass by itself
		GivenUp:     func(l lease.Lease) { s.GaveUp(l) }})
	if w.journals[node] == nil {
		w.journals[node] = &memoryJournal{releases: map[lease.Attachment]ipam.Release{}}
	}
	port := worldPort{w, node}
	s = &ipam.Service{
		Node: node, Options: w.Options, Allocator: allocator,
		Cluster: port, Links: port, Pools: port, Endpoints: port, Events: port, Runtime: port,
		Journal: w.journals[node], Observer: discard{}, Now: w.Now, Log: log, MinLeaseAge: reclaim.DefaultMinAge,
	}
	w.mu.Lock()
	w.services[node] = s
	pools := slices.Collect(maps.Values(w.pools))
	w.mu.Unlock()
	allocator.SetReserved(w.reserved)
	for _, p := range pools {
		w.tell(node, allocator, p)
	}
	// With the API server away it stays not ready, as an agent does.
	if err := allocator.Load(context.Background()); err != nil && !errors.Is(err, ErrAway) {
		panic(err)
	}
	return s
}

// Restart ends the service of a node without any farewell and starts another.
func (w *World) Restart(node string) *ipam.Service {
	if s, ok := w.services[node]; ok {
		s.Allocator.Close()
		w.mu.Lock()
		delete(w.services, node)
		w.mu.Unlock()
	}
	return w.Service(node)
}

// Endpoints returns the endpoints, by "namespace/name".
func (w *World) Endpoints() map[string]ipam.Endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.endpoints)
}

// DeleteEndpoint removes an endpoint by "namespace/name".
func (w *World) DeleteEndpoint(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.endpoints, key)
}

// TakeEvents returns the events since the last call.
func (w *World) TakeEvents() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.events
	w.events = nil
	return events
}

type discard struct{}

func (discard) AllocationConflict()             {}
func (discard) ReleaseConflict()                {}
func (discard) Damaged()                        {}
func (discard) Reclaimed(reclaim.Reason, error) {}

// worldPort is the world as one node sees it.
type worldPort struct {
	*World
	node string
}

func (p worldPort) Pod(_ context.Context, namespace, name, uid string) (ipam.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, ok := p.pods[namespace+"/"+name]
	switch {
	case ok && pod.Node == p.node && (uid == "" || uid == pod.UID):
		return pod.Pod, nil // from memory, also with the API server away
	case p.away:
		return ipam.Pod{}, ErrAway
	case !ok || uid != "" && uid != pod.UID:
		return ipam.Pod{}, fmt.Errorf("pod %s/%s: %w", namespace, name, ipam.ErrNotFound)
	}
	return ipam.Pod{}, fmt.Errorf("pod %s/%s: %w", namespace, name, ipam.ErrElsewhere)
}

func (p worldPort) PodState(_ context.Context, namespace, name string) (reclaim.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return reclaim.Pod{}, ErrAway
	}
	pod, ok := p.pods[namespace+"/"+name]
	if !ok {
		return reclaim.Pod{Presence: reclaim.Gone}, nil
	}
	state := pod.State
	state.Presence, state.UID = reclaim.Exists, pod.UID
	return state, nil
}

func (p worldPort) NodeState(context.Context) (reclaim.Node, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return reclaim.Node{}, ErrAway
	}
	return reclaim.Node{Presence: reclaim.Exists, Ready: !p.notReady[p.node]}, nil
}

func (p worldPort) Namespace(_ context.Context, name string) (pool.NamespaceFacts, error) {
	if facts, ok := p.namespaces[name]; ok {
		return facts, nil
	}
	return pool.NamespaceFacts{Name: name}, nil
}

func (p worldPort) Node(context.Context) (pool.NodeFacts, error) {
	if facts, ok := p.nodes[p.node]; ok {
		return facts, nil
	}
	return pool.NodeFacts{Name: p.node}, nil
}

func (p worldPort) TopController(_ context.Context, pod ipam.Pod) (ipam.Controller, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.pods[pod.Namespace+"/"+pod.Name]; ok && known.Top.Kind != "" {
		return known.Top, nil
	}
	if pod.Owner.Kind != "" {
		return pod.Owner, nil
	}
	return ipam.Controller{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}, nil
}

func (p worldPort) Network(_ context.Context, name pool.NetworkAttachment) (ipam.Network, error) {
	network, ok := p.networks[name]
	if !ok {
		return ipam.Network{}, fmt.Errorf("network attachment %s: %w", name, ipam.ErrNotFound)
	}
	return network, nil
}

func (p worldPort) Subnets(link string) ([]netip.Prefix, error) {
	subnets, ok := p.subnets[p.node+"/"+link]
	if !ok {
		return nil, fmt.Errorf("link %q: no such network interface", link)
	}
	return subnets, nil
}

func (p worldPort) Sandboxes(context.Context) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute[p.node] {
		return nil, fmt.Errorf("the runtime of %s does not answer: %w", p.node, ipam.ErrNotReady)
	}
	return maps.Clone(p.sandboxes[p.node]), nil
}

func (p worldPort) Get(_ context.Context, name string) (*pool.Pool, error) {
	if err := p.reach(); err != nil {
		return nil, err
	}
	found, ok := p.pools[name]
	if !ok {
		return nil, fmt.Errorf("pool %s: %w", name, ipam.ErrNotFound)
	}
	return found, nil
}

func (p worldPort) List(_ context.Context, limit int) ([]*pool.Pool, error) {
	if err := p.reach(); err != nil {
		return nil, err
	}
	var pools []*pool.Pool
	for _, name := range slices.Sorted(maps.Keys(p.pools)) {
		if len(pools) < limit {
			pools = append(pools, p.pools[name])
		}
	}
	return pools, nil
}

func (p worldPort) Set(e ipam.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endpoints[e.Namespace+"/"+e.Name] = e
}

func (p worldPort) Without(namespace, name, podUID, ifname string, _ time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.endpoints[namespace+"/"+name]; ok && e.PodUID == podUID {
		e.Interfaces = slices.DeleteFunc(slices.Clone(e.Interfaces), func(i ipam.EndpointInterface) bool { return i.Interface == ifname })
		p.endpoints[namespace+"/"+name] = e
	}
}

func (p worldPort) Remove(namespace, name, podUID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.endpoints[namespace+"/"+name]; ok && e.PodUID == podUID {
		delete(p.endpoints, namespace+"/"+name)
	}
}

func (p worldPort) Addresses(_ context.Context, namespace, name, podUID, node string) ([]netip.Addr, error) {
	if err := p.reach(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var addrs []netip.Addr
	shown := p.endpoints[namespace+"/"+name]
	if shown.PodUID != podUID || shown.Node != node {
		return nil, nil
	}
	for _, i := range shown.Interfaces {
		for _, a := range i.Addresses {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	return addrs, nil
}

func (p worldPort) AllocationFailed(pod ipam.Pod, message string) {
	p.event(pod, "Warning FailedAllocateIP", message)
}

func (p worldPort) AddressConflict(pod ipam.Pod, message string) {
	p.event(pod, "Warning IPConflict", message)
}

func (p worldPort) Reclaimed(pod ipam.Pod, change reclaim.Change) {
	p.event(pod, "Normal ReclaimedIP", change.String())
}

func (p worldPort) event(pod ipam.Pod, what, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, fmt.Sprintf("%s %s/%s: %s", what, pod.Namespace, pod.Name, message))
}

// memoryJournal is a journal that outlives a service, as a disk does.
type memoryJournal struct {
	mu       sync.Mutex
	last     uint64 // generation
	releases map[lease.Attachment]ipam.Release
}

func (j *memoryJournal) Add(r ipam.Release) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last++
	r.Generation = j.last
	j.releases[r.Attachment] = r
	return nil
}

func (j *memoryJournal) Generation(at lease.Attachment) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.releases[at].Generation
}

func (j *memoryJournal) Remove(at lease.Attachment, generation uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.releases[at].Generation == generation {
		delete(j.releases, at)
	}
	return nil
}

func (j *memoryJournal) All() ([]ipam.Release, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Values(j.releases)), nil
}
