package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
)

// maxMoves is the number of addresses that a reconcile moves. Each takes a call.
const maxMoves = 16

// followed is the memory about fixed addresses. It may be lost at any time: the leases, the placements and status.changes have all that
// a new leader needs.
type followed struct {
	since  time.Time                // when this process began
	placed map[netip.Addr]time.Time // the end of our last call about the address
	tried  map[netip.Addr][]string  // interfaces that calls may have put the address on
	idle   map[netip.Addr]time.Time
	stops  map[string]*stop // by interface or address; "" stands for all
	pause  time.Duration    // of the mode Manage, before an address that no pod holds is unassigned
	more   bool             // addresses wait for the next reconcile
	// unreserved are subnets that have no explicit reservation for all fixed addresses. The next question about all nodes describes them again.
	unreserved map[string]bool
}

func newFollowed(now time.Time) followed {
	return followed{
		since: now, placed: map[netip.Addr]time.Time{}, tried: map[netip.Addr][]string{}, idle: map[netip.Addr]time.Time{}, stops: map[string]*stop{},
		unreserved: map[string]bool{},
	}
}

// allow ends the refusals of addresses that the cloud has taken back.
func (f *followed) allow(pieces []netip.Prefix) {
	maps.DeleteFunc(f.stops, func(at string, _ *stop) bool {
		a, err := netip.ParseAddr(at)
		return err == nil && slices.ContainsFunc(pieces, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

func sortedAddrs[T any](m map[netip.Addr]T) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

// follow moves fixed addresses to the nodes of their leases, and unassigns those that no pod has held for a while. again are the nodes to
// ask about.
//
// The order makes it safe. An address with a pod that may use it has the UID of the pod in its placement. We erase that, and then read the
// lease from the API server, before the call that takes the address away: the agent may have granted the address to the same pod again, which
// has started if it has seen its UID. The next pod starts when its own UID is there, after the call.
// status.changes keeps a successor from acting on the address before a call of ours can have ended.
func (r *Reconciler) follow(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, busy map[string]bool) (faults []cloud.Issue, again []string, err error) {
	s.fixed.more = false
	if len(in.fixed) == 0 {
		return nil, nil, nil
	}
	now := r.clock.Now()
	plan := cloud.Follow(s.following(network, in, busy, now))
	s.fixed.idle = plan.Idle
	if err := r.explain(ctx, in, plan); err != nil {
		return nil, nil, err
	}
	moves, more, err := r.confirm(ctx, plan, min(maxMoves, maxChanges-len(s.doubts)))
	if err != nil {
		return nil, nil, err
	}
	s.fixed.more = more
	if err := r.erase(ctx, in, moves); err != nil {
		return nil, nil, err
	}
	if moves, err = r.confirmed(ctx, moves); err != nil {
		return nil, nil, err
	}
	if len(moves) > 0 {
		// Until a placement says where the address is, a new leader learns it from the call.
		if err := r.runOpen(ctx, network, s, callsOf(moves, network, s)); err != nil {
			return nil, nil, err
		}
		if err := r.settle(ctx, s, in, moves); err != nil {
			return nil, nil, err
		}
		r.recordEnd(ctx, network, s)
	}
	faults = plan.Issues
	for _, at := range slices.Sorted(maps.Keys(s.fixed.stops)) {
		faults = append(faults, s.fixed.stops[at].Issue)
	}
	return faults, plan.Again, nil
}

// following returns the input of cloud.Follow.
func (s *session) following(network *v2beta1.SpiderCloudNetwork, in *input, busy map[string]bool, now time.Time) cloud.Following {
	f := cloud.Following{
		Now: now, Devices: devicesOf(network), Busy: busy, Since: s.fixed.since, Placed: s.fixed.placed, Tried: s.fixed.tried, Idle: s.fixed.idle, Held: map[netip.Addr]bool{}, Stops: map[string]bool{},
		CoolDown: coolDownOf(network), Members: s.membersOf(in),
	}
	s.fixed.pause = f.CoolDown
	for _, d := range s.doubts {
		f.Held[addrOf(d.CloudChange)] = true
	}
	for at, stop := range s.fixed.stops {
		if now.Before(stop.until) {
			f.Stops[at] = true
		} else if now.Sub(stop.until) > countTime {
			delete(s.fixed.stops, at) // no pod has needed it since
		}
	}
	asked := map[string]bool{}
	for _, i := range network.Spec.Interfaces {
		for _, e := range i.FixedAddresses {
			for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
				name := cloud.FixedPoolName(network.Name, e.Name, family)
				if pool, ok := in.fixed[name]; ok {
					asked[name] = true
					f.Pools = append(f.Pools, fixedPoolOf(pool, name, int(i.Device), e.Subnet, in.leases[name]))
				}
			}
		}
	}
	for name, pool := range in.fixed {
		if !asked[name] {
			f.Pools = append(f.Pools, s.formerPool(network, name, pool, in.leases[name])...)
		}
	}
	return f
}

// formerPool returns a pool that the network no longer asks for. Its subnet is that with its CIDR, its device that with its network attachment.
func (s *session) formerPool(network *v2beta1.SpiderCloudNetwork, name string, pool fixedPool, leases []lease.Lease) []cloud.FixedPool {
	k := slices.IndexFunc(network.Spec.Interfaces, func(i v2beta1.CloudInterface) bool { return slices.Contains(pool.object.Spec.MultusName, i.MultusName) })
	if k < 0 {
		// The interface is no longer in the network. The placements tell where the addresses are, and no pod gets one.
		former := fixedPoolOf(pool, name, cloud.UnknownDevice, "", leases)
		former.Deleting = true
		for i := range former.Leases {
			former.Leases[i].InUse = false
		}
		return []cloud.FixedPool{former}
	}
	for id, subnet := range s.subnets {
		if slices.ContainsFunc(subnet.CIDRs, func(p netip.Prefix) bool { return p.Masked().String() == pool.object.Spec.Subnet }) {
			former := fixedPoolOf(pool, name, int(network.Spec.Interfaces[k].Device), id, leases)
			former.Deleting = true
			return []cloud.FixedPool{former}
		}
	}
	return nil
}

func fixedPoolOf(pool fixedPool, name string, device int, subnet string, leases []lease.Lease) cloud.FixedPool {
	out := cloud.FixedPool{
		Name: name, Device: device, Subnet: subnet, IPs: pool.ips, Places: placesOfPool(pool.object), Deleting: pool.object.DeletionTimestamp != nil,
	}
	for _, l := range leases {
		// The agents give no address to a virtual machine, which needs it on two nodes in a live migration.
		inUse := l.State == lease.InUse && l.FixedFor.Kind != lease.KindVirtualMachine
		out.Leases = append(out.Leases, cloud.FixedLease{Addr: l.Addr, PodUID: l.PodUID, Node: l.Node, InUse: inUse})
	}
	return out
}

// explain writes why pods wait for their addresses, and removes outdated messages and placements.
func (r *Reconciler) explain(ctx context.Context, in *input, plan cloud.FollowPlan) error {
	for name, pool := range in.fixed {
		changes := map[netip.Addr]placement{}
		inUse := map[netip.Addr]bool{}
		for _, l := range in.leases[name] {
			inUse[l.Addr] = l.State == lease.InUse
		}
		for _, p := range pool.object.Status.Placements {
			a, err := netip.ParseAddr(p.IP)
			switch {
			case err != nil:
			case slices.Contains(plan.Dropped, a) && !pool.ips.Contains(a):
				changes[a] = func(*v2beta1.CloudPlacement) bool { return false }
			case p.Message != "" && !inUse[a]:
				changes[a] = func(p *v2beta1.CloudPlacement) bool {
					p.Message = ""
					return p.Interface != ""
				}
			}
		}
		for a, why := range plan.Refused {
			if pool.ips.Contains(a) {
				changes[a] = func(p *v2beta1.CloudPlacement) bool {
					p.Message = observe.Truncate(why, maxMessage)
					return true
				}
			}
		}
		for _, a := range plan.Lost {
			if also := changes[a]; inUse[a] {
				changes[a] = func(p *v2beta1.CloudPlacement) bool {
					p.PodUID = ""
					return also == nil || also(p)
				}
			}
		}
		if err := r.update(ctx, in, name, changes); err != nil {
			return err
		}
	}
	return nil
}

// maxMessage is the limit of a message of a placement, in bytes.
const maxMessage = 1024

// update changes placements of a pool of the input.
func (r *Reconciler) update(ctx context.Context, in *input, name string, changes map[netip.Addr]placement) error {
	if len(changes) == 0 {
		return nil
	}
	pool := in.fixed[name]
	object, err := r.place(ctx, pool.object, changes)
	if err == nil {
		pool.object = object
		in.fixed[name] = pool
	}
	return err
}

// change is a move or a leave, with its call.
type change struct {
	cloud.Move
	leave bool // To is the interface that has the address
	*call
}

// confirm returns the changes of the plan whose lease is in the API server as in the cache, up to most, and whether there are more.
func (r *Reconciler) confirm(ctx context.Context, plan cloud.FollowPlan, most int) (changes []*change, more bool, err error) {
	for _, m := range plan.Moves {
		changes = append(changes, &change{Move: m})
	}
	for _, leave := range plan.Leaves {
		changes = append(changes, &change{Move: cloud.Move{Pool: leave.Pool, Addr: leave.Addr, Node: leave.Node, To: leave.Interface}, leave: true})
	}
	changes, err = r.confirmed(ctx, changes)
	most = min(len(changes), max(0, most))
	return changes[:most], most < len(changes), err
}

// confirmed returns those of the changes that the leases in the API server ask for. It reads each block once.
func (r *Reconciler) confirmed(ctx context.Context, changes []*change) (still []*change, err error) {
	blocks := map[netip.Addr]lease.Block{}
	for _, c := range changes {
		base := inet.BlockOf(c.Addr)
		if _, ok := blocks[base]; !ok {
			object := &v2beta1.SpiderIPBlock{}
			err := r.Live.Get(ctx, client.ObjectKey{Name: compile.BlockName(base)}, object)
			if client.IgnoreNotFound(err) != nil {
				return nil, fmt.Errorf("read SpiderIPBlock %s: %w", compile.BlockName(base), err)
			}
			blocks[base] = lease.Block{Base: base}
			if err == nil {
				blocks[base], _ = compile.StoredBlock(object)
			}
		}
		if c.holds(blocks[base]) {
			still = append(still, c)
		}
	}
	return still, nil
}

// holds reports whether the lease in a block asks for the change.
func (c *change) holds(b lease.Block) bool {
	l, ok := b.Lease(c.Addr)
	if c.leave {
		return b.Damaged == "" && (!ok || l.State == lease.Released) && len(b.FormerOf(c.Addr)) == 0
	}
	return ok && l.State == lease.InUse && l.PodUID == c.PodUID && l.Node == c.Node && l.Pool == c.Pool
}

// erase removes the pods that may use the addresses of the changes. The interfaces stay: they tell where an address is after a crash.
func (r *Reconciler) erase(ctx context.Context, in *input, changes []*change) error {
	for name, pool := range in.fixed {
		erased := map[netip.Addr]placement{}
		places := placesOfPool(pool.object)
		for _, c := range changes {
			if c.Pool == name && places[c.Addr].PodUID != "" {
				erased[c.Addr] = func(p *v2beta1.CloudPlacement) bool {
					p.PodUID = ""
					return true
				}
			}
		}
		if err := r.update(ctx, in, name, erased); err != nil {
			return err
		}
	}
	return nil
}

// pieceOf returns an address as the providers take it.
func pieceOf(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

// callsOf makes the calls of the changes.
func callsOf(changes []*change, network *v2beta1.SpiderCloudNetwork, s *session) (calls []*call) {
	for _, c := range changes {
		action, do := v2beta1.CloudMove, func(ctx context.Context) error { return s.move(ctx, network.Spec.Provider, c.Move) }
		if c.leave {
			action, do = v2beta1.CloudUnassign, func(ctx context.Context) error {
				err := s.provider.Unassign(ctx, c.To, pieceOf(c.Addr))
				if cloud.KindOf(err) == cloud.Gone {
					return nil
				}
				return err
			}
		}
		c.call = s.newCall(c.Node, c.To, action, do)
		c.call.Address = c.Addr.String()
		calls = append(calls, c.call)
	}
	return calls
}

// move puts an address on an interface. The call that takes an address from another interface takes it from any, also from a stranger's. So
// we make it only if the last answers show the address on an interface of the network. A former interface that they do not show with it is
// asked by its ID to give it up.
func (s *session) move(ctx context.Context, provider v2beta1.CloudProvider, m cloud.Move) error {
	piece := pieceOf(m.Addr)
	a := cloud.Assignment{Interface: m.To, Family: inet.FamilyOf(m.Addr), Unit: cloud.Addresses, Exact: piece}
	a.Move = m.Shown && a.Family == inet.IPv4 && provider != v2beta1.CloudAlibaba
	for _, from := range m.From {
		if a.Move || from == m.To {
			continue
		}
		// The cloud takes no address from another interface in the same call.
		if err := s.provider.Unassign(ctx, from, piece); err != nil && cloud.KindOf(err) != cloud.Gone {
			return err
		}
	}
	_, err := s.provider.Assign(ctx, a)
	return err
}

// settle writes what the calls have done.
func (r *Reconciler) settle(ctx context.Context, s *session, in *input, changes []*change) error {
	now := r.clock.Now()
	var errs []error
	for name := range in.fixed {
		results := map[netip.Addr]placement{}
		for _, c := range changes {
			if c.Pool == name {
				if result := s.outcome(now, in, c); result != nil {
					results[c.Addr] = result
				}
			}
		}
		errs = append(errs, r.update(ctx, in, name, results))
	}
	for _, c := range changes {
		r.log.InfoContext(ctx, "moved a fixed address", "address", c.Addr.String(), "node", c.Node, "interface", c.To, "from", c.From, "unassigned", c.leave, "err", c.err)
		if c.Strayed && c.err == nil {
			r.status.Recorder.Record(in.fixed[c.Pool].object, nil, observe.FixedAddressReturned(c.Addr.String(), c.To, c.Node))
		}
	}
	return errors.Join(errs...)
}

// outcome remembers the result of a call, and returns what to write. An unknown result changes nothing: see session.doubt.
func (s *session) outcome(now time.Time, in *input, c *change) placement {
	s.fixed.placed[c.Addr] = now
	piece := pieceOf(c.Addr)
	switch to := in.instanceOf(c.Node); {
	case c.err != nil && cloud.KindOf(c.err) == cloud.Unknown:
		if !c.leave {
			s.fixed.tried[c.Addr] = append(s.fixed.tried[c.Addr], c.To)
		}
		return nil
	case c.err != nil:
		issue := s.refusedMove(now, c)
		if c.leave {
			return nil
		}
		return func(p *v2beta1.CloudPlacement) bool {
			p.Message = observe.Truncate(issue.Text, maxMessage)
			return true
		}
	case c.leave:
		s.histories[to] = s.histories[to].Unassigned(c.To, piece)
		s.fixed.tried[c.Addr] = slices.DeleteFunc(s.fixed.tried[c.Addr], func(iface string) bool { return iface == c.To })
		delete(s.fixed.idle, c.Addr)
		return func(*v2beta1.CloudPlacement) bool { return false }
	default:
		for id, h := range s.histories {
			for _, from := range c.From {
				h = h.Unassigned(from, piece)
			}
			s.histories[id] = h
		}
		s.histories[to] = s.histories[to].Assigned(c.To, piece)
		s.fixed.tried[c.Addr] = []string{c.To}
		for _, at := range []string{"", c.To, c.Addr.String()} {
			delete(s.fixed.stops, at)
		}
		return func(p *v2beta1.CloudPlacement) bool {
			p.Interface, p.PodUID, p.Message = c.To, c.PodUID, ""
			return true
		}
	}
}

// refusedMove remembers a refusal, and where it holds.
func (s *session) refusedMove(now time.Time, c *change) cloud.Issue {
	issue, at := faultOf(c.err), ""
	switch cloud.KindOf(c.err) {
	case cloud.Quota:
		at = c.To
		issue = cloud.Issue{Reason: cloud.TypeLimit, Text: fmt.Sprintf("interface %s of node %s has all addresses and prefixes that its instance type allows; use a larger type, or have fewer pods there", c.To, c.Node) + said(c.err)}
	case cloud.Conflict:
		at = c.Addr.String()
		issue = cloud.Issue{Reason: "AddressInUse", Text: s.holderOf(c) + "; unassign it there and reserve the range in the subnet, or take it out of spec.interfaces[].fixedAddresses[].ips" + said(c.err)}
	case cloud.Gone:
		at = c.To
		s.askNow(now, []string{c.Node})
	case cloud.Invalid:
		at = c.Addr.String()
	}
	problem := "is not on node"
	if c.leave {
		problem = "has no pod, but stays on node"
	}
	issue.Text = fmt.Sprintf("the fixed address %s %s %s: %s", c.Addr, problem, c.Node, issue.Text)
	issue.Degrades = c.leave || cloud.KindOf(c.err) == cloud.Quota // other nodes go on
	s.fixed.stops[at] = s.newStop(now, s.fixed.stops[at], issue)
	return issue
}

// holderOf says which interface has an address that the cloud does not move, as far as the last answers about the nodes tell.
func (s *session) holderOf(c *change) string {
	for instance, h := range s.histories {
		iface, piece, ok := h.Holder(c.Addr)
		switch {
		case !ok || iface == c.To:
		case piece.IsSingleIP():
			return fmt.Sprintf("interface %s of instance %s has %s", iface, instance, c.Addr)
		default:
			return fmt.Sprintf("interface %s of instance %s has %s in the prefix %s", iface, instance, c.Addr, piece)
		}
	}
	return fmt.Sprintf("another interface of the cloud has %s", c.Addr)
}

// nextFixed passes the times when something is due.
func (s *session) nextFixed(earlier func(time.Time)) {
	for _, stop := range s.fixed.stops {
		earlier(stop.until)
	}
	for _, since := range s.fixed.idle {
		earlier(since.Add(s.fixed.pause))
	}
}
