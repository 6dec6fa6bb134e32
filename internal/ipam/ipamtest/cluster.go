package ipamtest

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// ErrAway is what every access to the API server fails with while FakeCluster.SetAway(true) holds.
var ErrAway = errors.New("the API server does not answer")

// FakeCluster is a cluster in memory: everything that the use cases of package ipam see
// through their ports. Its methods and fields are for one goroutine; requests of
// services may run concurrently between them.
type FakeCluster struct {
	Store   *Store
	Options ipam.Options
	// Configure, if set, changes the configuration of each new allocator.
	Configure func(*alloc.Config)
	// Log gets what services log; nil discards it.
	Log *slog.Logger

	mu         sync.Mutex
	now        time.Time
	away       bool
	pods       map[lease.PodKey]*FakePod
	namespaces map[string]pool.NamespaceFacts
	nodes      map[string]pool.NodeFacts
	networks   map[pool.NetworkAttachment]ipam.Network
	subnets    map[string][]netip.Prefix // of links, by node/link
	stale      map[string]ipam.Pod       // by node
	sets       map[string]ipam.StatefulSet
	instances  map[string]ipam.VirtualMachineInstance
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

// FakePod is a pod of a FakeCluster.
type FakePod struct {
	ipam.Pod
	Node  string
	Top   ipam.Controller // the zero value: the pod's owner, or the pod
	State reclaim.Pod
}

// NewFakeCluster returns an empty cluster at the time.
func NewFakeCluster(now time.Time) *FakeCluster {
	c := &FakeCluster{
		Store:   &Store{},
		Options: ipam.Options{EnableIPv4: true, EnableIPv6: true},
		now:     now,
		pods:    map[lease.PodKey]*FakePod{}, namespaces: map[string]pool.NamespaceFacts{}, nodes: map[string]pool.NodeFacts{},
		stale: map[string]ipam.Pod{}, sets: map[string]ipam.StatefulSet{}, instances: map[string]ipam.VirtualMachineInstance{},
		networks: map[pool.NetworkAttachment]ipam.Network{}, subnets: map[string][]netip.Prefix{},
		pools: map[string]*pool.Pool{}, unlabelled: map[string]bool{}, endpoints: map[string]ipam.Endpoint{},
		sandboxes: map[string]map[string]string{}, mute: map[string]bool{}, notReady: map[string]bool{}, services: map[string]*ipam.Service{}, journals: map[string]*memoryJournal{},
	}
	c.Store.Before = func(string, netip.Addr) error { return c.reach() }
	return c
}

// Close ends all services.
func (c *FakeCluster) Close() {
	for _, s := range c.services {
		s.Allocator.Close()
	}
}

func (c *FakeCluster) reach() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return ErrAway
	}
	return nil
}

// Now is the time.
func (c *FakeCluster) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance lets time pass.
func (c *FakeCluster) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// SetAway makes the API server unreachable, or reachable again.
func (c *FakeCluster) SetAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
}

// SetNode adds or replaces a node.
func (c *FakeCluster) SetNode(facts pool.NodeFacts) { c.nodes[facts.Name] = facts }

// SetNamespace adds or replaces a namespace.
func (c *FakeCluster) SetNamespace(facts pool.NamespaceFacts) {
	c.namespaces[facts.Name] = facts
}

// SetNetwork adds or replaces a network attachment.
func (c *FakeCluster) SetNetwork(name pool.NetworkAttachment, network ipam.Network) {
	c.networks[name] = network
}

// SetLink gives a link of a node addresses in the networks.
func (c *FakeCluster) SetLink(node, link string, subnets ...netip.Prefix) {
	c.subnets[node+"/"+link] = subnets
}

// SetPod adds or replaces a pod.
func (c *FakeCluster) SetPod(p FakePod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[p.PodKey] = &p
}

// Pod returns a pod.
func (c *FakeCluster) Pod(key lease.PodKey) (*FakePod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pods[key]
	return p, ok
}

// SetStalePod lets the cache of the node keep a pod that was deleted.
func (c *FakeCluster) SetStalePod(node string, p ipam.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale[node] = p
}

// DeletePod removes a pod, as if nobody had to terminate it.
func (c *FakeCluster) DeletePod(key lease.PodKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, key)
}

// SetPool adds or replaces a pool and tells the nodes that watch it. One without a
// label is seen by those only who ask for it.
func (c *FakeCluster) SetPool(p *pool.Pool, labelled bool) {
	c.mu.Lock()
	c.pools[p.Name], c.unlabelled[p.Name] = p, !labelled
	services := maps.Clone(c.services)
	c.mu.Unlock()
	for node, s := range services {
		c.tell(node, s.Catalog, p)
	}
}

func (c *FakeCluster) tell(node string, catalog *ipam.PoolCatalog, p *pool.Pool) {
	if c.unlabelled[p.Name] {
		return
	}
	if len(p.NodeNames) == 1 && p.NodeNames[0] != node {
		catalog.DeletePool(p.Name)
		return
	}
	catalog.SetPool(p)
}

// DeletePool removes a pool.
func (c *FakeCluster) DeletePool(name string) {
	c.mu.Lock()
	delete(c.pools, name)
	services := maps.Clone(c.services)
	c.mu.Unlock()
	for _, s := range services {
		s.Catalog.DeletePool(name)
	}
}

// SetReserved replaces the reserved addresses.
func (c *FakeCluster) SetReserved(set inet.Set) {
	c.reserved = set
	for _, s := range c.services {
		s.Catalog.SetReserved(set)
	}
}

// Sandbox makes a sandbox of the pod with the UID in the runtime of the node.
func (c *FakeCluster) Sandbox(node, id, podUID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sandboxes[node] == nil {
		c.sandboxes[node] = map[string]string{}
	}
	c.sandboxes[node][id] = podUID
}

// EndSandbox removes a sandbox from the runtime of a node.
func (c *FakeCluster) EndSandbox(node, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sandboxes[node], id)
}

// SetNodeReady says whether the node is ready, as it is at first.
func (c *FakeCluster) SetNodeReady(node string, ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notReady[node] = !ready
}

// SetRuntimeAway lets the runtime of the node not answer, or answer again.
func (c *FakeCluster) SetRuntimeAway(node string, away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute[node] = away
}

// Service returns the service of a node, and starts it if need be.
func (c *FakeCluster) Service(node string) *ipam.Service {
	if s, ok := c.services[node]; ok {
		return s
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	config := alloc.Config{Node: node, Blocks: c.Store, Older: c.Store.Older, Now: c.Now, Log: log, Observer: discard{},
		SearchEvery: -1} // time here does not pass by itself
	if c.Configure != nil {
		c.Configure(&config)
	}
	allocator := alloc.New(config)
	if c.journals[node] == nil {
		c.journals[node] = newMemoryJournal()
	}
	port := nodePort{c, node}
	s := &ipam.Service{
		Node: node, Options: c.Options, Allocator: allocator, Catalog: ipam.NewPoolCatalog(port, c.Now, allocator.SetUsable),
		Cluster: port, Owners: c, Links: port, Endpoints: port, Events: port, Runtime: port,
		Journal: c.journals[node], Observer: discard{}, Now: c.Now, Log: log, MinLeaseAge: reclaim.DefaultMinAge,
	}
	c.mu.Lock()
	c.services[node] = s
	pools := slices.Collect(maps.Values(c.pools))
	c.mu.Unlock()
	s.Catalog.SetReserved(c.reserved)
	for _, p := range pools {
		c.tell(node, s.Catalog, p)
	}
	// With the API server away it stays not ready, as an agent does.
	if err := allocator.Load(context.Background()); err != nil && !errors.Is(err, ErrAway) {
		panic(err)
	}
	return s
}

// Restart ends the service of a node without any farewell and starts another.
func (c *FakeCluster) Restart(node string) *ipam.Service {
	if s, ok := c.services[node]; ok {
		s.Allocator.Close()
		c.mu.Lock()
		delete(c.services, node)
		c.mu.Unlock()
	}
	return c.Service(node)
}

// Endpoints returns the endpoints, by "namespace/name".
func (c *FakeCluster) Endpoints() map[string]ipam.Endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.endpoints)
}

// DeleteEndpoint removes an endpoint by "namespace/name".
func (c *FakeCluster) DeleteEndpoint(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.endpoints, key)
}

// TakeEvents returns the events since the last call.
func (c *FakeCluster) TakeEvents() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.events
	c.events = nil
	return events
}

type discard struct{}

func (discard) AllocationConflict()             {}
func (discard) ReleaseConflict()                {}
func (discard) Damaged()                        {}
func (discard) Committed(int, time.Duration)    {}
func (discard) Reclaimed(reclaim.Reason, error) {}

// RangePool returns a default pool of the ranges.
func RangePool(t testing.TB, name, subnet string, ips ...string) *pool.Pool {
	t.Helper()
	prefix := netip.MustParsePrefix(subnet)
	version := inet.FamilyOf(prefix.Addr())
	set, err := inet.Parse(ips, inet.Bounds{Family: version, Subnet: prefix})
	if err != nil {
		t.Fatal(err)
	}
	return &pool.Pool{Name: name, Family: version, Subnet: prefix, IPs: set, Default: true}
}
