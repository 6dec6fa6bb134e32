package ipam_test

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
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/wire"
)

// simLog counts what the agents log.
type simLog struct {
	slog.Handler
	sim *sim
}

func (l simLog) Enabled(context.Context, slog.Level) bool { return true }

func (l simLog) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "committed a release from disk":
		l.sim.note("release committed from disk")
	case "restored a lease that another client had removed":
		l.sim.note("lease restored")
	case "reclaimed an address":
		l.sim.note("reclaim by the agent")
	}
	return nil
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

// simPolicy is the policy of agents and the controller.
var simPolicy = reclaim.Policy{
	Enabled: true, MinAge: reclaim.DefaultMinAge, FixedForStatefulSet: true, FixedForKubeVirt: true, ScaledDownRetention: time.Hour,
}

func (s *sim) reclaim(node string) {
	err := s.service(node).Reclaim(context.Background(), simPolicy)
	s.say("reclaim on %s: %v", node, err)
}

func (s *sim) replay(node string) {
	left, err := s.service(node).Replay(context.Background())
	s.say("replay on %s: %d left, %v", node, left, err)
}

func (s *sim) restart(node string) {
	s.cluster.Restart(node)
	s.note("agent restarts")
	s.say("restart %s", node)
	s.mu.Lock()
	s.events[node] = nil
	s.mu.Unlock()
	s.service(node)
}

// rush lets all pods without a sandbox start at the same time, while the agents do what
// they do in the background.
func (s *sim) rush() {
	type start struct {
		pod      *simPod
		service  *ipam.Service
		owner    lease.Owner
		unlisted bool
		addrs    map[string][]netip.Addr
		err      error
	}
	var starts []*start
	for _, p := range s.pods {
		if p.uid == "" {
			s.create(p)
		}
		if p.sandbox == nil {
			s.createSandbox(p)
			owner, unlisted := s.prove(p.object)
			starts = append(starts, &start{p, s.service(p.node), owner, unlisted, map[string][]netip.Addr{}, nil})
		}
	}
	var wg sync.WaitGroup
	for _, st := range starts {
		wg.Go(func() {
			for _, ifname := range s.interfaces() {
				var reply wire.AddReply
				if reply, st.err = st.service.Add(context.Background(), wire.AddRequest{Attachment: st.pod.sandbox.attachment(ifname)}); st.err != nil {
					return
				}
				for _, a := range reply.Addresses {
					st.addrs[ifname] = append(st.addrs[ifname], a.Prefix.Addr())
				}
			}
		})
	}
	for _, node := range simNodes {
		service := s.service(node)
		wg.Go(func() { _ = service.Reclaim(context.Background(), simPolicy) })
		wg.Go(func() { _, _ = service.Replay(context.Background()) })
		wg.Go(func() {
			_ = errors.Join(service.Allocator.ReadUnread(context.Background()), service.RestoreLost(context.Background()))
		})
	}
	wg.Wait()
	for _, st := range starts {
		sandbox := st.pod.sandbox
		s.say("rush: add %s on %s: %v, %.160v", sandbox.id, sandbox.node, st.addrs, st.err)
		if st.err != nil {
			s.kill(st.pod)
			continue
		}
		s.note("pods start at the same time")
		s.acknowledge(sandbox, st.owner, st.unlisted)
		sandbox.addrs = st.addrs
	}
}

// control lets the controller judge all blocks, or a node die first and come back later.
func (s *sim) control() {
	if s.r.Intn(4) > 0 {
		s.sweep()
		return
	}
	node := s.node()
	s.note("node dies")
	s.say("%s dies, and its Node object is deleted", node)
	s.gone[node] = true
	for _, sandbox := range slices.Clone(s.living) {
		if sandbox.node == node {
			s.powerOff(sandbox)
		}
	}
	for _, p := range s.pods {
		if p.uid != "" && p.node == node {
			s.cluster.DeletePod(p.object.PodKey)
			p.uid, p.sandbox = "", nil
		}
	}
	if s.r.Intn(3) > 0 {
		s.sweep()
	}
	for range s.r.Intn(4) {
		if p := s.pods[s.r.Intn(len(s.pods))]; p.uid != "" {
			s.work(p)
		}
	}
	delete(s.gone, node)
	s.say("%s comes back", node)
	s.restart(node)
	s.relist(node)
}

// powerOff ends a sandbox without a word to its agent. Its DELs may come after the next boot.
func (s *sim) powerOff(sandbox *simSandbox) {
	s.living = slices.DeleteFunc(s.living, func(other *simSandbox) bool { return other == sandbox })
	s.cluster.EndSandbox(sandbox.node, sandbox.id)
	for _, ifname := range s.interfaces() {
		s.ended = append(s.ended, simAttachment{sandbox.attachment(ifname), sandbox.node})
	}
}

// sweep does what the controller does: see package leasereclaim.
func (s *sim) sweep() {
	for _, b := range s.cluster.Store.All() {
		swept, changes := reclaim.Sweep(b, s.facts, simPolicy, s.cluster.Now())
		if len(changes) == 0 {
			continue
		}
		version, err := s.cluster.Store.Put(context.Background(), swept)
		if err != nil {
			s.fail("the controller: %v", err)
		}
		s.announce(simEvent{base: b.Base, version: version})
		for _, change := range changes {
			s.note("reclaim by the controller")
			s.say("controller: %s", change)
		}
	}
}

func (s *sim) facts(l lease.Lease) reclaim.Facts {
	f := reclaim.Facts{Owner: s.ownerState(l.FixedFor)}
	if l.State != lease.InUse {
		for _, b := range s.cluster.Store.All() {
			for _, other := range b.Leases {
				f.Replaced = f.Replaced || other.State == lease.InUse && !l.FixedFor.IsZero() && other.FixedFor == l.FixedFor &&
					other.Interface == l.Interface && inet.FamilyOf(other.Addr) == inet.FamilyOf(l.Addr)
			}
		}
		return f
	}
	if f.Node.Presence = reclaim.Exists; s.gone[l.Node] {
		f.Node.Presence = reclaim.Gone
		f.Pod.Presence = reclaim.Gone
		if p, ok := s.cluster.Pod(l.Pod); ok {
			f.Pod = p.State
			f.Pod.Presence, f.Pod.UID = reclaim.Exists, p.UID
		}
	}
	return f
}

func (s *sim) ownerState(owner lease.Owner) reclaim.Owner {
	switch {
	case owner.IsZero():
		return reclaim.OwnerUnknown
	case owner.Kind == lease.KindVirtualMachine && (s.owners.instance != "" || slices.ContainsFunc(s.pods, func(p *simPod) bool { return p.uid != "" && p.object.Owner.Name == owner.Name })):
		return reclaim.OwnerWanted
	case owner.Kind == lease.KindVirtualMachine, s.owners.set == "":
		return reclaim.OwnerGone
	}
	if _, ordinal, _ := owner.StatefulSet(); ordinal >= s.owners.replicas {
		return reclaim.OwnerScaledDown
	}
	return reclaim.OwnerWanted
}

// conflictOrPools lets another machine answer for an address of the pod, or an
// administrator change the pools.
func (s *sim) conflictOrPools(p *simPod) {
	if s.r.Intn(2) == 0 {
		s.note("pool changes")
		s.setPools(s.r.Intn(5))
		return
	}
	if p.sandbox == nil || len(p.sandbox.addrs) == 0 {
		return
	}
	ifname := slices.Sorted(maps.Keys(p.sandbox.addrs))[0]
	addr := p.sandbox.addrs[ifname][0]
	shared := len(s.blocks()[inet.BlockOf(addr)].FormerOf(addr)) > 0
	err := s.service(p.node).Conflict(context.Background(),
		wire.ConflictRequest{Attachment: p.sandbox.attachment(ifname), Address: addr, MAC: fmt.Sprint(s.r.Intn(5))})
	s.say("another host answers for %s of %s: %v", addr, p.sandbox.id, err)
	if err != nil {
		if shared {
			s.note("conflict of a shared address")
		}
		s.kill(p)
		return
	}
	if l, _ := s.blocks()[inet.BlockOf(addr)].Lease(addr); l.State == lease.Quarantined {
		s.note("address in quarantine")
	}
	delete(p.sandbox.addrs, ifname)
	s.add(p, ifname)
}

// setPools sets the IPv4 pools to one of five variants.
func (s *sim) setPools(variant int) {
	s.usable = map[string]inet.Set{}
	pools := []map[string][]string{
		{"p": {"10.0.0.12-10.0.0.19"}}, {"p": {"10.0.0.12-10.0.0.15"}}, {"p": {"10.0.0.12-10.0.0.13", "10.0.0.15-10.0.0.19"}},
		{"p": {"10.0.0.12-10.0.0.15"}, "r": {"10.0.0.16-10.0.0.19"}}, {"r": {"10.0.0.12-10.0.0.19"}},
	}[variant]
	for _, name := range []string{"p", "r"} {
		s.cluster.DeletePool(name)
	}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		p := rangePool(s.t, name, "10.0.0.0/24", pools[name]...)
		s.cluster.SetPool(p, true)
		s.usable[name] = p.IPs
	}
	if s.multi {
		p := rangePool(s.t, "p6", "fd00::/64", "fd00::e-fd00::15")
		s.cluster.SetPool(p, true)
		s.usable["p6"] = p.IPs
	}
	s.say("pools %v", pools)
}

// tidyOrReplug removes empty blocks, as the controller does, or detaches and attaches an
// interface.
func (s *sim) tidyOrReplug(p *simPod) {
	if s.replug {
		if p.sandbox != nil && len(p.sandbox.addrs) > 0 {
			delete(p.sandbox.addrs, "eth0")
			s.note("interface unplugged")
			err := s.service(p.node).Delete(context.Background(), wire.DeleteRequest{Attachment: p.sandbox.attachment("eth0")})
			s.say("unplug %s: %v", p.sandbox.id, err)
			if s.r.Intn(3) == 0 {
				s.restart(p.node)
			}
			if s.r.Intn(2) == 0 {
				s.add(p, "eth0")
			}
		}
		return
	}
	for _, b := range s.cluster.Store.All() {
		s.seen[b.Base] = s.seen[b.Base].Next(b.Leases, s.cluster.Now())
		if b.Removable(s.seen[b.Base], s.cluster.Now(), time.Minute) {
			s.note("empty block removed")
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
		s.note("all blocks deleted")
		s.loseCloud()
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
		s.loseCloud()
		s.mu.Lock()
		s.pending = nil
		s.mu.Unlock()
		s.restored = true
		s.note("etcd restored")
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
	blocks := s.blocks()
	tenants := map[netip.Addr][]*simSandbox{}
	for _, sandbox := range s.living {
		for ifname, addrs := range sandbox.addrs {
			for _, a := range addrs {
				for _, other := range tenants[a] {
					if !s.sameOwner(sandbox, other) {
						s.fail("%s is used by %s and %s", a, other.id, sandbox.id)
					}
				}
				tenants[a] = append(tenants[a], sandbox)
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
	s.advance(1000 * time.Hour) // more than the clocks went back
	for _, node := range simNodes {
		if _, err := s.service(node).Replay(context.Background()); err != nil {
			s.fail("replay: %v", err)
		}
		s.reclaim(node)
	}
	s.owners.set, s.owners.instance = "", ""
	s.sweep()
	s.endCloud()
	for _, b := range s.cluster.Store.All() {
		for _, l := range b.Leases {
			if l.State == lease.InUse || l.State == lease.Retained || l.State == lease.Withheld {
				s.fail("leaked %+v", l)
			}
		}
		if len(b.Former) > 0 {
			s.fail("leaked %+v", b.Former)
		}
	}
}
