package ipam_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

var (
	simSeeds = flag.Int("sim.seeds", 100, "number of simulated histories")
	simFirst = flag.Int("sim.first", 0, "seed of the first history")
	simSteps = flag.Int("sim.steps", 200, "steps of a history")
)

// TestSimulation plays random histories of two nodes: sandboxes come and go, pods name
// owners that they do not have, writes get lost or arrive late, agents restart, nodes
// die, etcd is restored from a backup, a user deletes blocks, pools change, clocks step,
// pods are force-deleted while their sandboxes run on, and the controller returns addresses
// to the cloud. No address may have two tenants, a living sandbox keeps its addresses, no
// agent grants a returned one, and at the end nothing may leak.
// "-sim.first=N -sim.seeds=1" repeats history N.
func TestSimulation(t *testing.T) {
	t.Parallel()
	happened := map[string]int{}
	for seed := *simFirst; seed < *simFirst+*simSeeds; seed++ {
		newSim(t, seed, happened).run()
		if t.Failed() {
			return
		}
	}
	if *simSeeds < enoughSeeds {
		return
	}
	for _, ingredient := range simIngredients {
		if happened[ingredient] == 0 {
			t.Errorf("in %d histories it never happened: %s", *simSeeds, ingredient)
		}
	}
	for _, ingredient := range slices.Sorted(maps.Keys(happened)) {
		if !slices.Contains(simIngredients, ingredient) {
			t.Errorf("simIngredients lacks %q", ingredient)
		}
		t.Logf("%8d %s", happened[ingredient], ingredient)
	}
}

// enoughSeeds is the number of histories in which each of simIngredients must happen.
const enoughSeeds = 100

// simIngredients is everything that must happen in some history: a simulation without one
// of them proves nothing about it.
var simIngredients = []string{
	"write lost", "late write lands", "late write refused", "answer lost", "write refused", "read lost",
	"agent restarts", "release committed from disk", "clocks go back", "etcd restored", "all blocks deleted", "lease restored",
	"DEL lost", "DEL late", "interface unplugged", "empty block removed", "reclaim by the agent", "reclaim by the controller",
	"node dies", "pool changes", "address in quarantine", "conflict of a shared address",
	"pod force-deleted", "late ADD of a deleted pod refused", "late ADD of a deleted pod",
	"pods start at the same time", "owner does not exist", "owner has another UID", "owner does not acknowledge the pod", "ordinal beyond the replicas",
	"owner proven", "owner deleted", "owner created again", "StatefulSet scaled",
	"retained address comes back", "address shared with a former sandbox", "address shared in a migration",
	"piece returned", "piece in use stays", "piece assigned again", "old decision to restore refused",
}

var simNodes = []string{"n1", "n2"}

type sim struct {
	t        *testing.T
	seed     int
	r        *rand.Rand
	cluster  *ipamtest.FakeCluster
	happened map[string]int // how often, by ingredient
	multi    bool           // two interfaces and both IP families
	replug   bool           // also DEL and ADD with one container

	restored bool // etcd was restored from a backup
	owners   simOwners
	cloud    simCloud
	gone     map[string]bool     // nodes without a Node object
	usable   map[string]inet.Set // addresses of the pools

	mu      sync.Mutex // guards what writes of a batch use concurrently: the next three
	calm    bool
	pending []lease.Block // writes on their way
	events  map[string][]simEvent

	seen  map[netip.Addr]lease.Sightings // by the controller
	pods  []*simPod
	ended []simAttachment // attachments whose DEL is still to come
	// living are all sandboxes that run, those of force-deleted pods included.
	living   []*simSandbox
	unlisted []*simSandbox // the runtime does not list them yet
	trace    []string
	uids     int
}

type simPod struct {
	name, uid, node string
	claim           simClaim
	sandboxes       int
	sandbox         *simSandbox
	object          ipam.Pod
}

type simSandbox struct {
	node, id string
	pod      ipam.Pod
	addrs    map[string][]netip.Addr // by interface
}

type simAttachment struct {
	wire.Attachment
	node string
}

// simEvent is an event of the watch of blocks.
type simEvent struct {
	base    netip.Addr
	version string
	deleted bool
}

func newSim(t *testing.T, seed int, happened map[string]int) *sim {
	s := &sim{
		t: t, seed: seed, r: rand.New(rand.NewSource(int64(seed))), happened: happened, events: map[string][]simEvent{"n1": nil, "n2": nil},
		cluster: ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)), replug: seed&1 != 0, multi: seed&4 != 0,
		owners: simOwners{proven: map[string]map[lease.Owner]bool{}}, gone: map[string]bool{},
		seen: map[netip.Addr]lease.Sightings{},
	}
	s.cluster.Log = slog.New(simLog{slog.DiscardHandler, s})
	s.cluster.Options.FixStatefulSet, s.cluster.Options.FixVirtualMachine = true, true
	s.cluster.Configure = func(c *alloc.Config) {
		c.Blocks, c.ReuseAfter = &lossyStore{Store: s.cluster.Store, sim: s}, -1
	}
	s.cloud = newSimCloud(s)
	s.setPools(0)
	if s.multi {
		s.cluster.SetNetwork(pool.NetworkAttachment{Namespace: "default", Name: "n"}, ipam.Network{IPAM: true, Name: "n"})
	}
	if seed&2 == 0 {
		for i := range 5 {
			s.pods = append(s.pods, &simPod{name: fmt.Sprint("p-", i)})
		}
		return s
	}
	s.pods = ownedPods()
	s.createSet()
	s.createInstance()
	return s
}

// lossyStore loses answers, carries writes out late or never, and refuses some.
type lossyStore struct {
	*ipamtest.Store
	sim *sim
}

func (s *lossyStore) dice(n int) int {
	s.sim.mu.Lock()
	defer s.sim.mu.Unlock()
	if s.sim.calm {
		return -1
	}
	return s.sim.r.Intn(n)
}

// lost decides whether a read fails.
func (s *lossyStore) lost() bool {
	if s.dice(20) != 0 {
		return false
	}
	s.sim.note("read lost")
	return true
}

func (s *lossyStore) Get(ctx context.Context, base netip.Addr) (lease.Block, error) {
	if s.lost() {
		return lease.Block{}, ipamtest.ErrAway
	}
	return s.Store.Get(ctx, base)
}

func (s *lossyStore) OfNode(ctx context.Context, node string) ([]lease.Block, error) {
	if s.lost() {
		return nil, ipamtest.ErrAway
	}
	return s.Store.OfNode(ctx, node)
}

func (s *lossyStore) FixedFor(ctx context.Context, owner lease.Owner) ([]lease.Block, error) {
	if s.lost() {
		return nil, ipamtest.ErrAway
	}
	return s.Store.FixedFor(ctx, owner)
}

func (s *lossyStore) InRegion(ctx context.Context, region netip.Prefix) ([]lease.Block, error) {
	if s.lost() {
		return nil, ipamtest.ErrAway
	}
	return s.Store.InRegion(ctx, region)
}

func (s *lossyStore) Put(ctx context.Context, b lease.Block) (string, error) {
	dice := s.dice(15)
	if dice == 0 { // late or never
		s.sim.mu.Lock()
		defer s.sim.mu.Unlock()
		s.sim.pending = append(s.sim.pending, b)
		return "", ipamtest.ErrAway
	}
	if dice == 2 {
		s.sim.note("write refused")
		return "", fmt.Errorf("%w: no reason", alloc.ErrRefused)
	}
	version, err := s.Store.Put(ctx, b)
	if err == nil {
		s.sim.announce(simEvent{base: b.Base, version: version})
	}
	if dice == 1 {
		s.sim.note("answer lost")
		return "", ipamtest.ErrAway
	}
	return version, err
}

// announce queues an event for the watches of all nodes.
func (s *sim) announce(e simEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node := range s.events {
		s.events[node] = append(s.events[node], e)
	}
}

// note counts an ingredient.
func (s *sim) note(ingredient string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happened[ingredient]++
}

func (s *sim) say(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.trace {
		s.t.Log(line)
	}
	s.t.Fatalf("seed %d: %s", s.seed, fmt.Sprintf(format, args...))
}

func (s *sim) node() string { return simNodes[s.r.Intn(len(simNodes))] }

// service returns the service of a node, with its blocks read.
func (s *sim) service(node string) *ipam.Service {
	service := s.cluster.Service(node)
	for !service.Allocator.Loaded() {
		_ = service.Allocator.Load(context.Background())
	}
	return service
}

func (s *sim) run() {
	defer s.cluster.Close()
	for range *simSteps {
		s.step()
		s.check()
		s.checkCloud()
	}
	s.end()
}

func (s *sim) step() {
	p := s.pods[s.r.Intn(len(s.pods))]
	if s.r.Intn(4) == 0 {
		s.listSandboxes()
	}
	switch s.r.Intn(26) {
	case 0, 1, 2, 3, 4:
		s.work(p)
	case 5:
		s.deletePod(p)
	case 6:
		if len(s.ended) > 0 {
			s.note("DEL late")
			s.del(s.r.Intn(len(s.ended)))
		}
	case 7, 8:
		s.arrive()
	case 9, 10:
		for range s.r.Intn(4) {
			s.deliver(s.node())
		}
	case 11:
		s.advance(time.Duration(s.r.Intn(400)) * time.Second)
	case 12:
		s.replay(s.node())
	case 13:
		s.reclaim(s.node())
	case 14:
		s.restart(s.node())
	case 15:
		s.tidyOrReplug(p)
	case 16:
		s.advance(-time.Duration(s.r.Intn(4000)) * time.Second)
		s.note("clocks go back")
		s.say("the clocks go back")
	case 17:
		s.disaster()
	case 18:
		s.forceDelete(p)
	case 19:
		s.lateAdd()
	case 20:
		s.changeOwners()
	case 21:
		s.control()
	case 22:
		s.conflictOrPools(p)
	case 23:
		s.rush()
	case 24, 25:
		s.cloudStep()
	}
}

// work creates the pod or its sandbox, repeats an ADD, or replaces the sandbox.
func (s *sim) work(p *simPod) {
	if p.uid == "" {
		s.create(p)
	}
	switch {
	case p.sandbox == nil:
		if p.claim == claimsInstance && s.r.Intn(3) > 0 {
			s.listActive()
		}
		s.createSandbox(p)
		for _, ifname := range s.interfaces() {
			if p.sandbox != nil {
				s.add(p, ifname)
			}
		}
	case s.r.Intn(3) == 0:
		s.add(p, s.interfaces()[s.r.Intn(len(s.interfaces()))])
	default:
		s.kill(p)
	}
}

func (s *sim) createSandbox(p *simPod) {
	p.sandboxes++
	p.sandbox = &simSandbox{
		pod: p.object, node: p.node, id: fmt.Sprintf("%s-%s-%d", p.name, p.uid, p.sandboxes), addrs: map[string][]netip.Addr{},
	}
	s.living = append(s.living, p.sandbox)
	s.unlisted = append(s.unlisted, p.sandbox)
}

// advance lets time pass. The runtime lists its new sandboxes before, or at random: it may
// list a sandbox only after the ADDs.
func (s *sim) advance(d time.Duration) {
	s.listSandboxes()
	s.cluster.Advance(d)
}

func (s *sim) listSandboxes() {
	for _, sandbox := range s.unlisted {
		if slices.Contains(s.living, sandbox) {
			s.cluster.Sandbox(sandbox.node, sandbox.id, sandbox.pod.UID)
		}
	}
	s.unlisted = nil
}

func (s *sim) interfaces() []string {
	if s.multi {
		return []string{"eth0", "net1"}
	}
	return []string{"eth0"}
}

func (s *sim) create(p *simPod) {
	s.uids++
	p.uid, p.node = fmt.Sprint("uid", s.uids), s.node()
	p.object = ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: p.name}, UID: p.uid, Owner: s.claimed(p)}
	if s.multi {
		p.object.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": "n"}
	}
	s.cluster.SetPod(ipamtest.FakePod{Pod: p.object, Node: p.node, State: reclaim.Pod{Phase: "Running", HasAddress: true}})
	s.say("create %s %s on %s, owner %v", p.name, p.uid, p.node, p.object.Owner)
}

func (s *simSandbox) attachment(ifname string) wire.Attachment {
	return wire.Attachment{ContainerID: s.id, Interface: ifname, PodNamespace: "default", PodName: s.pod.Name, PodUID: s.pod.UID}
}

func (s *sim) add(p *simPod, ifname string) {
	if s.addTo(p.sandbox, ifname) != nil {
		s.kill(p) // the runtime removes the sandbox
	}
}

func (s *sim) addTo(sandbox *simSandbox, ifname string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	owner, unlisted := s.prove(sandbox.pod)
	before := s.blocks()
	reply, err := s.service(sandbox.node).Add(ctx, wire.AddRequest{Attachment: sandbox.attachment(ifname)})
	if err != nil {
		s.say("add %s %s on %s: %.160v", sandbox.id, ifname, sandbox.node, err)
		return err
	}
	var addrs []netip.Addr
	for _, a := range reply.Addresses {
		addrs = append(addrs, a.Prefix.Addr())
	}
	s.say("add %s %s on %s: %v", sandbox.id, ifname, sandbox.node, addrs)
	s.checkGrants(sandbox, ifname, addrs, before, owner, unlisted)
	sandbox.addrs[ifname] = addrs
	return nil
}

// blocks returns the stored blocks.
func (s *sim) blocks() map[netip.Addr]lease.Block {
	blocks := map[netip.Addr]lease.Block{}
	for _, b := range s.cluster.Store.All() {
		blocks[b.Base] = b
	}
	return blocks
}

// kill ends the sandbox of the pod.
func (s *sim) kill(p *simPod) {
	if p.sandbox != nil {
		s.endSandbox(p.sandbox)
		p.sandbox = nil
	}
}

// endSandbox ends a sandbox. Its DELs come at once, later or never.
func (s *sim) endSandbox(sandbox *simSandbox) {
	s.say("sandbox %s ends", sandbox.id)
	s.living = slices.DeleteFunc(s.living, func(other *simSandbox) bool { return other == sandbox })
	s.cluster.EndSandbox(sandbox.node, sandbox.id)
	before := len(s.ended)
	for _, ifname := range s.interfaces() {
		s.ended = append(s.ended, simAttachment{sandbox.attachment(ifname), sandbox.node})
	}
	if s.r.Intn(3) > 0 {
		for len(s.ended) > before {
			s.del(len(s.ended) - 1)
		}
	}
}

func (s *sim) del(i int) {
	at := s.ended[i]
	s.ended = slices.Delete(s.ended, i, i+1)
	if s.r.Intn(6) == 0 {
		s.note("DEL lost")
		s.say("the DEL of %s %s is lost", at.ContainerID, at.Interface)
		return
	}
	err := s.service(at.node).Delete(context.Background(), wire.DeleteRequest{Attachment: at.Attachment})
	s.say("del %s %s on %s: %v", at.ContainerID, at.Interface, at.node, err)
}

func (s *sim) deletePod(p *simPod) {
	if p.uid == "" {
		return
	}
	s.kill(p)
	s.cluster.DeletePod(p.object.PodKey)
	s.say("pod %s is gone", p.name)
	p.uid = ""
}

// orphans are the sandboxes whose pod object is gone.
func (s *sim) orphans() []*simSandbox {
	return slices.DeleteFunc(slices.Clone(s.living), func(sandbox *simSandbox) bool {
		return slices.ContainsFunc(s.pods, func(p *simPod) bool { return p.sandbox == sandbox })
	})
}

// forceDelete removes the object of a pod, whose sandbox runs on, or ends such a sandbox.
// The sandbox may be one whose ADD is still to come.
func (s *sim) forceDelete(p *simPod) {
	switch orphans := s.orphans(); {
	case len(orphans) > 0 && s.r.Intn(2) == 0:
		s.endSandbox(orphans[s.r.Intn(len(orphans))])
	case p.uid != "":
		if p.sandbox == nil && s.r.Intn(2) == 0 {
			s.createSandbox(p)
		}
		p.uid, p.sandbox = "", nil
		s.cluster.DeletePod(p.object.PodKey)
		s.note("pod force-deleted")
		s.say("pod %s is force-deleted", p.name)
	}
}

// lateAdd lets the ADD of a deleted pod come, which the cache of its node still has.
func (s *sim) lateAdd() {
	orphans := s.orphans()
	if len(orphans) == 0 {
		return
	}
	sandbox := orphans[s.r.Intn(len(orphans))]
	s.cluster.SetStalePod(sandbox.node, sandbox.pod)
	defer s.cluster.SetStalePod(sandbox.node, ipam.Pod{})
	for _, ifname := range s.interfaces() {
		if s.addTo(sandbox, ifname) != nil {
			s.note("late ADD of a deleted pod refused")
			s.endSandbox(sandbox)
			return
		}
		s.note("late ADD of a deleted pod")
	}
}

// arrive carries out, or drops, a write that is on its way.
func (s *sim) arrive() {
	s.mu.Lock()
	if len(s.pending) == 0 {
		s.mu.Unlock()
		return
	}
	i := s.r.Intn(len(s.pending))
	b := s.pending[i]
	s.pending = slices.Delete(s.pending, i, i+1)
	s.mu.Unlock()
	if s.r.Intn(4) == 0 {
		s.note("write lost")
		return
	}
	version, err := s.cluster.Store.Put(context.Background(), b)
	if err == nil {
		s.note("late write lands")
		s.announce(simEvent{base: b.Base, version: version})
	} else {
		s.note("late write refused")
	}
	s.say("late write of %s: %v", b.Base, err)
}

// deliver lets the watch of a node report its next event.
func (s *sim) deliver(node string) {
	s.mu.Lock()
	if len(s.events[node]) == 0 {
		s.mu.Unlock()
		return
	}
	e := s.events[node][0]
	s.events[node] = s.events[node][1:]
	s.mu.Unlock()
	a := s.service(node).Allocator
	b, err := s.cluster.Store.Get(context.Background(), e.base)
	switch {
	case e.deleted, err == nil && b.Node != node && !b.Mentions(node):
		a.ObserveDeleted(e.base, e.version) // also when the block left the selection
	case err == nil && !a.Knows(e.base, e.version):
		_ = a.Read(context.Background(), e.base)
	}
	s.heal(node)
}
