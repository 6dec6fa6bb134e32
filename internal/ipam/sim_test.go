package ipam_test

import (
	"context"
	"flag"
	"fmt"
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

// TestSimulation plays random histories of two nodes: sandboxes come and go, writes get
// lost or arrive late, agents restart, etcd is restored from a backup, a user deletes
// blocks, clocks step, and StatefulSet pods are force-deleted while their sandboxes
// run on. No address may have two tenants, a living sandbox keeps its addresses, and at
// the end nothing may leak. "-sim.first=N -sim.seeds=1" repeats history N.
func TestSimulation(t *testing.T) {
	t.Parallel()
	for seed := *simFirst; seed < *simFirst+*simSeeds; seed++ {
		newSim(t, seed).run()
		if t.Failed() {
			return
		}
	}
}

var simNodes = []string{"n1", "n2"}

type sim struct {
	t       *testing.T
	seed    int
	r       *rand.Rand
	cluster *ipamtest.FakeCluster
	multi   bool // two interfaces and both IP families
	replug  bool // also DEL and ADD with one container

	restored bool // etcd was restored from a backup

	mu      sync.Mutex // guards what writes of a batch use concurrently: the next three
	calm    bool
	pending []lease.Block // writes on their way
	events  map[string][]simEvent

	pods  []*simPod
	ended []simAttachment // attachments whose DEL is still to come
	// living are all sandboxes that run, those of force-deleted pods included.
	living []*simSandbox
	trace  []string
	uids   int
}

type simPod struct {
	name, uid, node string
	fixed           bool // a pod of a StatefulSet
	sandboxes       int
	sandbox         *simSandbox
}

type simSandbox struct {
	pod, uid, node, id string
	addrs              map[string][]netip.Addr // by interface
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

func newSim(t *testing.T, seed int) *sim {
	s := &sim{
		t: t, seed: seed, r: rand.New(rand.NewSource(int64(seed))), events: map[string][]simEvent{"n1": nil, "n2": nil},
		cluster: ipamtest.NewFakeCluster(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)), replug: seed&1 != 0, multi: seed&4 != 0,
	}
	s.cluster.Options.FixStatefulSet = true
	s.cluster.Configure = func(c *alloc.Config) {
		c.Blocks, c.ReuseAfter = &lossyStore{Store: s.cluster.Store, sim: s}, -1
	}
	s.cluster.SetPool(rangePool(t, "p", "10.0.0.0/24", "10.0.0.12-10.0.0.19"), true)
	if s.multi {
		s.cluster.SetPool(rangePool(t, "p6", "fd00::/64", "fd00::e-fd00::15"), true)
		s.cluster.SetNetwork(pool.NetworkAttachment{Namespace: "default", Name: "n"}, ipam.Network{IPAM: true, Name: "n"})
	}
	for i := range 5 {
		s.pods = append(s.pods, &simPod{name: fmt.Sprint("p-", i), fixed: seed&2 != 0 && i < 2})
	}
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

func (s *lossyStore) Get(ctx context.Context, base netip.Addr) (lease.Block, error) {
	if s.dice(20) == 0 {
		return lease.Block{}, ipamtest.ErrAway
	}
	return s.Store.Get(ctx, base)
}

func (s *lossyStore) OfNode(ctx context.Context, node string) ([]lease.Block, error) {
	if s.dice(20) == 0 {
		return nil, ipamtest.ErrAway
	}
	return s.Store.OfNode(ctx, node)
}

func (s *lossyStore) InRegion(ctx context.Context, region netip.Prefix) ([]lease.Block, error) {
	if s.dice(20) == 0 {
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
		return "", fmt.Errorf("%w: no reason", alloc.ErrRefused)
	}
	version, err := s.Store.Put(ctx, b)
	if err == nil {
		s.sim.announce(simEvent{base: b.Base, version: version})
	}
	if dice == 1 { // the answer is lost
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
	}
	s.end()
}

func (s *sim) step() {
	p := s.pods[s.r.Intn(len(s.pods))]
	switch s.r.Intn(18) {
	case 0, 1, 2, 3:
		s.work(p)
	case 4:
		s.deletePod(p)
	case 5:
		if len(s.ended) > 0 {
			s.del(s.r.Intn(len(s.ended)))
		}
	case 6, 7:
		s.arrive()
	case 8, 9:
		for range s.r.Intn(4) {
			s.deliver(s.node())
		}
	case 10:
		s.cluster.Advance(time.Duration(s.r.Intn(400)) * time.Second)
	case 11:
		node := s.node()
		_, err := s.service(node).Replay(context.Background())
		s.say("replay on %s: %v", node, err)
	case 12:
		s.reclaim(s.node())
	case 13:
		node := s.node()
		s.cluster.Restart(node)
		s.say("restart %s", node)
		s.mu.Lock()
		s.events[node] = nil
		s.mu.Unlock()
		s.service(node)
	case 14:
		s.tidyOrReplug(p)
	case 15:
		s.cluster.Advance(-time.Duration(s.r.Intn(4000)) * time.Second)
		s.say("the clocks go back")
	case 16:
		s.disaster()
	case 17:
		s.forceDelete(p)
	}
}

// work creates the pod or its sandbox, repeats an ADD, or replaces the sandbox.
func (s *sim) work(p *simPod) {
	if p.uid == "" {
		s.create(p)
	}
	switch {
	case p.sandbox == nil:
		p.sandboxes++
		p.sandbox = &simSandbox{
			pod: p.name, uid: p.uid, node: p.node, id: fmt.Sprintf("%s-%s-%d", p.name, p.uid, p.sandboxes), addrs: map[string][]netip.Addr{},
		}
		s.living = append(s.living, p.sandbox)
		s.cluster.Sandbox(p.node, p.sandbox.id, p.uid)
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

func (s *sim) interfaces() []string {
	if s.multi {
		return []string{"eth0", "net1"}
	}
	return []string{"eth0"}
}

func (s *sim) create(p *simPod) {
	s.uids++
	p.uid, p.node = fmt.Sprint("uid", s.uids), s.node()
	pod := ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: p.name}, UID: p.uid}
	if s.multi {
		pod.Annotations = map[string]string{"k8s.v1.cni.cncf.io/networks": "n"}
	}
	if p.fixed {
		pod.Owner = ipam.Controller{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "p", UID: "s"}
	}
	s.cluster.SetPod(ipamtest.FakePod{Pod: pod, Node: p.node, State: reclaim.Pod{Phase: "Running", HasAddress: true}})
	s.say("create %s %s on %s", p.name, p.uid, p.node)
}

func (s *sandboxAt) attachment() wire.Attachment {
	return wire.Attachment{ContainerID: s.id, Interface: s.ifname, PodNamespace: "default", PodName: s.pod, PodUID: s.uid}
}

// sandboxAt is an interface of a sandbox.
type sandboxAt struct {
	*simSandbox
	ifname string
}

func (s *sim) add(p *simPod, ifname string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	at := sandboxAt{p.sandbox, ifname}
	reply, err := s.service(p.node).Add(ctx, wire.AddRequest{Attachment: at.attachment()})
	if err != nil {
		s.say("add %s %s on %s: %.160v", p.sandbox.id, ifname, p.node, err)
		s.kill(p) // the runtime removes the sandbox
		return
	}
	var addrs []netip.Addr
	for _, a := range reply.Addresses {
		addrs = append(addrs, a.Prefix.Addr())
	}
	s.say("add %s %s on %s: %v", p.sandbox.id, ifname, p.node, addrs)
	// After a restore of etcd, a sandbox may be a former one of an address that another
	// node has given away meanwhile; a repeated ADD then gets another address.
	if was := p.sandbox.addrs[ifname]; was != nil && !s.restored && !slices.Equal(was, addrs) {
		s.fail("the repeated ADD of %s %s gave %v after %v", p.sandbox.id, ifname, addrs, was)
	}
	p.sandbox.addrs[ifname] = addrs
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
		s.ended = append(s.ended, simAttachment{(&sandboxAt{sandbox, ifname}).attachment(), sandbox.node})
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
	s.cluster.DeletePod(lease.PodKey{Namespace: "default", Name: p.name})
	s.say("pod %s is gone", p.name)
	p.uid = ""
}

// forceDelete removes the object of a pod, whose sandbox runs on, or ends such a sandbox.
func (s *sim) forceDelete(p *simPod) {
	orphan := slices.IndexFunc(s.living, func(sandbox *simSandbox) bool {
		return !slices.ContainsFunc(s.pods, func(p *simPod) bool { return p.sandbox == sandbox })
	})
	switch {
	case orphan >= 0 && s.r.Intn(2) == 0:
		s.endSandbox(s.living[orphan])
	case p.uid != "":
		p.uid, p.sandbox = "", nil
		s.cluster.DeletePod(lease.PodKey{Namespace: "default", Name: p.name})
		s.say("pod %s is force-deleted", p.name)
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
		return
	}
	version, err := s.cluster.Store.Put(context.Background(), b)
	if err == nil {
		s.announce(simEvent{base: b.Base, version: version})
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

// relist lets the watch of a node begin again.
func (s *sim) relist(node string) {
	s.mu.Lock()
	s.events[node] = nil
	s.mu.Unlock()
	a := s.service(node).Allocator
	listed := map[netip.Addr]string{}
	for _, b := range s.cluster.Store.All() {
		if b.Node == node || b.Mentions(node) {
			listed[b.Base] = b.Version
		}
	}
	for _, base := range a.Outdated(listed, s.cluster.Store.Version()) {
		for a.Read(context.Background(), base) != nil {
		}
	}
}

// heal does what the agent does every two seconds.
func (s *sim) heal(node string) {
	_ = s.service(node).Allocator.ReadUnread(context.Background())
	for s.service(node).RestoreLost(context.Background()) != nil {
	}
}

func (s *sim) reclaim(node string) {
	err := s.service(node).Reclaim(context.Background(), reclaim.Policy{Enabled: true, MinAge: reclaim.DefaultMinAge, FixedForStatefulSet: true})
	s.say("reclaim on %s: %v", node, err)
}

// tidyOrReplug removes empty blocks, as the controller does, or detaches and attaches an
// interface.
func (s *sim) tidyOrReplug(p *simPod) {
	if s.replug {
		if p.sandbox != nil && len(p.sandbox.addrs) > 0 {
			delete(p.sandbox.addrs, "eth0")
			at := sandboxAt{p.sandbox, "eth0"}
			err := s.service(p.node).Delete(context.Background(), wire.DeleteRequest{Attachment: at.attachment()})
			s.say("unplug %s: %v", p.sandbox.id, err)
			s.add(p, "eth0")
		}
		return
	}
	for _, b := range s.cluster.Store.All() {
		if b.Removable(s.cluster.Now(), time.Minute) {
			s.remove(b)
		}
	}
}

func (s *sim) remove(b lease.Block) {
	if s.cluster.Store.Delete(context.Background(), b) == nil {
		s.say("block %s removed", b.Base)
		s.announce(simEvent{b.Base, b.Version, true})
	}
}

// disaster lets a user delete all blocks, or restores etcd from a backup. No ADD comes
// before the agents have noticed: no guard on a node could prevent that one.
func (s *sim) disaster() {
	switch s.r.Intn(8) {
	case 0:
		for _, b := range s.cluster.Store.All() {
			s.remove(b)
		}
	case 1:
		backup := s.cluster.Store.Backup()
		s.say("backup")
		for range s.r.Intn(10) {
			s.work(s.pods[s.r.Intn(len(s.pods))])
		}
		s.cluster.Store.Restore(backup)
		s.mu.Lock()
		s.pending = nil
		s.mu.Unlock()
		s.restored = true
		s.say("restored")
	default:
		return
	}
	// All nodes list before any of them writes: after a restore without
	// --bump-revision, etcd uses versions again.
	for _, node := range simNodes {
		s.relist(node)
	}
	for range 2 { // a restored lease may cost the other node one
		for _, node := range simNodes {
			s.relist(node)
			s.heal(node)
		}
	}
}

// check checks that no address has two tenants, and that each living sandbox has its
// addresses or is listed as a former sandbox.
func (s *sim) check() {
	s.t.Helper()
	blocks := map[netip.Addr]lease.Block{}
	for _, b := range s.cluster.Store.All() {
		blocks[b.Base] = b
	}
	tenants := map[netip.Addr]*simSandbox{}
	for _, sandbox := range s.living {
		for ifname, addrs := range sandbox.addrs {
			for _, a := range addrs {
				if other := tenants[a]; other != nil && other.pod != sandbox.pod {
					s.fail("%s is used by %s and %s", a, other.id, sandbox.id)
				}
				tenants[a] = sandbox
				b := blocks[inet.BlockOf(a)]
				if _, ok := b.HolderOf(a, lease.Attachment{ContainerID: sandbox.id, Interface: ifname}); !ok {
					s.fail("%s is used by %s %s, and the block says %+v", a, sandbox.id, ifname, b)
				}
			}
		}
	}
}

// end lets everything come to rest: nothing may be left.
func (s *sim) end() {
	s.mu.Lock()
	s.calm, s.pending = true, nil
	s.mu.Unlock()
	for _, p := range s.pods {
		s.deletePod(p)
	}
	for len(s.living) > 0 {
		s.endSandbox(s.living[0])
	}
	for _, node := range simNodes {
		s.relist(node)
		s.heal(node)
	}
	s.cluster.Advance(1000 * time.Hour) // more than the clocks went back
	for _, node := range simNodes {
		if _, err := s.service(node).Replay(context.Background()); err != nil {
			s.fail("replay: %v", err)
		}
		s.reclaim(node)
	}
	for _, b := range s.cluster.Store.All() {
		for _, l := range b.Leases {
			if l.State == lease.InUse {
				s.fail("leaked %+v", l)
			}
		}
		if len(b.Former) > 0 {
			s.fail("leaked %+v", b.Former)
		}
	}
}
