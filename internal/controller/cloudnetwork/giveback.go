package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
)

// withholder keeps addresses from all agents, whatever they know (package withhold).
type withholder interface {
	Withhold(ctx context.Context, p withhold.Piece) (holders []lease.Lease, err error)
	List(ctx context.Context) ([]withhold.Withheld, error)
	Restore(ctx context.Context, h withhold.Withheld, addrs inet.Set) error
}

// withheldTime is the longest time between the withholding of addresses and the call that unassigns them. A process that was
// paused may have a successor that has put them into service again.
const withheldTime = 10 * time.Second

var errLate = errors.New("the controller was too slow, and withholds the addresses again first")

// look reads the withheld addresses, unless they are known.
func (r *Reconciler) look(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session) error {
	if s.looked {
		return nil
	}
	held, err := r.Withholder.List(ctx)
	if err != nil {
		return fmt.Errorf("read the withheld addresses: %w", err)
	}
	s.withheld, s.looked = held, true
	still := map[string]inet.Set{}
	for _, h := range s.ofNetwork(network.Name) {
		still[h.Pool] = s.stays[h.Pool].And(h.Addrs)
	}
	s.stays = still
	return nil
}

// ofNetwork returns what the network withholds.
func (s *session) ofNetwork(name string) []withhold.Withheld {
	return slices.DeleteFunc(slices.Clone(s.withheld), func(h withhold.Withheld) bool { return h.Network != name })
}

// goingBack returns the withheld addresses that no pool is to have, by pool. The cloud may have taken them back already.
func (s *session) goingBack(name string) map[string]inet.Set {
	back := map[string]inet.Set{}
	for _, h := range s.ofNetwork(name) {
		back[h.Pool] = h.Addrs.Minus(s.stays[h.Pool])
	}
	return back
}

// leaving returns the addresses that are to leave their pool, or are on their way back to the cloud.
func (s *session) leaving(name string) map[string]inet.Set {
	leaving := s.goingBack(name)
	for pool, pieces := range s.returning {
		sets := []inet.Set{leaving[pool]}
		for _, piece := range pieces {
			sets = append(sets, lease.Withholdable(piece))
		}
		leaving[pool] = inet.Union(sets...)
	}
	return leaving
}

// regained remembers that a pool has got addresses again that it gave back earlier.
func (s *session) regained(name, pool string, pieces []netip.Prefix) {
	var sets []inet.Set
	for _, piece := range pieces {
		sets = append(sets, inet.OfPrefix(piece))
	}
	for _, h := range s.ofNetwork(name) {
		if again := h.Addrs.And(inet.Union(sets...)); h.Pool == pool && !again.IsEmpty() {
			s.stays[pool] = inet.Union(s.stays[pool], again)
		}
	}
}

// giveBack withholds the addresses of pieces, and unassigns them.
func (r *Reconciler) giveBack(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, returns []cloud.Return) ([]cloud.Issue, error) {
	if s.refusal != nil && r.clock.Now().Before(s.refusal.until) {
		return []cloud.Issue{s.refusal.Issue}, nil
	}
	var faults []cloud.Issue
	var calls []*call
	var ready []cloud.Return
	start := time.Now()
	for _, ret := range returns {
		if late := time.Since(start) > withheldTime/2 && len(calls) > 0; late || len(calls) == parallelCalls || len(calls)+len(s.doubts) >= maxChanges {
			s.more = s.more || len(calls) > 0 // otherwise, when a doubt ends
			break
		}
		began := time.Now()
		pieces, err := r.withhold(ctx, network, s, ret)
		if err != nil {
			faults = append(faults, cloud.Issue{Reason: "WriteFailed", Text: fmt.Sprintf("withhold addresses of SpiderIPPool %s: %s; they stay assigned", ret.Pool, err), Degrades: true})
		}
		if len(pieces) == 0 {
			continue
		}
		ret.Pieces = pieces
		prefixes := ret.Prefixes()
		ready = append(ready, ret)
		calls = append(calls, s.newCall(ret.Node, ret.Interface, v2beta1.CloudUnassign, func(ctx context.Context) error {
			if time.Since(began) > withheldTime {
				return &cloud.Error{Kind: cloud.Throttled, Action: "Unassign", Err: errLate}
			}
			return s.provider.Unassign(ctx, ret.Interface, prefixes)
		}))
	}
	if len(calls) == 0 {
		return faults, nil
	}
	if err := r.run(ctx, network, s, calls); err != nil {
		return faults, err
	}
	var back []string
	for i, ret := range ready {
		s.returned(r.clock.Now(), in.instanceOf(ret.Node), ret, calls[i].err)
		r.log.InfoContext(ctx, "gave addresses back to the cloud", "node", ret.Node, "interface", ret.Interface, "pool", ret.Pool, "pieces", fmt.Sprint(ret.Pieces), "err", calls[i].err)
		if calls[i].err == nil {
			for _, other := range r.sessions { // fixed addresses of the pieces are free now, also those of other networks
				other.fixed.allow(ret.Prefixes())
			}
			back = append(back, fmt.Sprintf("%s of %s of node %s", join(ret.Prefixes()), ret.Interface, ret.Node))
		}
	}
	if len(back) > 0 {
		r.status.Recorder.Record(network, nil, observe.AddressesReturned(back))
	}
	return faults, nil
}

// withhold withholds the addresses of the pieces. It returns those without a holder; the others stay in their pool.
func (r *Reconciler) withhold(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, ret cloud.Return) ([]cloud.Piece, error) {
	var free []cloud.Piece
	var errs []error
	s.looked = false
	for _, p := range ret.Pieces {
		if p.Addrs.IsEmpty() { // it has fixed addresses only, and their pods wait for a placement
			free = append(free, p)
			continue
		}
		holders, err := r.Withholder.Withhold(ctx, withhold.Piece{Network: network.Name, Pool: ret.Pool, Addrs: p.Addrs})
		if errors.Is(err, withhold.ErrDamaged) || errors.Is(err, alloc.ErrRefused) { // for long; the other pieces go on
			errs = append(errs, err)
			s.keep(ret.Pool, p)
			continue
		}
		if err != nil {
			return free, errors.Join(append(errs, err)...)
		}
		if len(holders) == 0 {
			free = append(free, p)
			continue
		}
		r.log.InfoContext(ctx, "a piece stays with its pool, because an address is in use", "pool", ret.Pool, "piece", p.Prefix, "address", holders[0].Addr, "pod", holders[0].Pod.String())
		s.keep(ret.Pool, p)
	}
	return free, errors.Join(errs...)
}

// staleMax is the longest time that descriptions of the cloud may lag behind its answers to our calls.
const staleMax = 10 * time.Minute

// givenBack is where and when a piece was, or may have been, unassigned.
type givenBack struct {
	cloud.Return           // of this piece only
	at           time.Time // of the answer of the cloud
	shown        bool      // the last answer about the interface has it: it is stale, or a later call has assigned the piece again
	again        bool      // it is shown after an assignment to the interface whose answer was lost
}

// doubted returns the history without the pieces that were given back lately: a description that has them is stale. Another
// interface may have them by now.
func (s *session) doubted(now time.Time, h cloud.History) cloud.History {
	for piece, g := range s.givenBack {
		if now.Sub(g.at) > staleMax {
			delete(s.givenBack, piece)
			continue
		}
		if h.Has(g.Interface) {
			g.shown = slices.Contains(h.Pieces(g.Interface), piece)
			s.givenBack[piece] = g
			h = h.Unassigned(g.Interface, []netip.Prefix{piece})
		}
	}
	return h
}

// lostAssignment marks the pieces that an assignment without an answer may have brought back to an interface. No description proves that they are
// not there until staleMax is over, so no pool gets them. But they take a place on the interface.
func (s *session) lostAssignment(iface string) {
	for piece, g := range s.givenBack {
		if g.Interface == iface && g.shown {
			g.again = true
			s.givenBack[piece] = g
		}
	}
}

// broughtBack returns the marked pieces, to give them back once more. That is harmless if they are not there: the cloud takes them from
// this interface only, and their addresses are withheld.
func (s *session) broughtBack(in *input, busy map[string]bool) (returns []cloud.Return) {
	for _, g := range s.givenBack {
		inPool := slices.ContainsFunc(in.existing, func(p cloud.ExistingPool) bool { return p.IPs.Overlaps(g.Pieces[0].Addrs) })
		if g.again && g.shown && !busy[g.Node] && !inPool {
			returns = append(returns, g.Return)
		}
	}
	return returns
}

// keep has a pool keep a piece.
func (s *session) keep(pool string, p cloud.Piece) {
	s.returning[pool] = slices.DeleteFunc(slices.Clone(s.returning[pool]), func(q netip.Prefix) bool { return q == p.Prefix })
	s.stays[pool] = inet.Union(s.stays[pool], p.Addrs)
}

// returned remembers what the cloud said about pieces that go back. After a refusal, the pool keeps them.
func (s *session) returned(now time.Time, instance string, ret cloud.Return, err error) {
	prefixes := ret.Prefixes()
	issue := faultOf(err)
	issue.Degrades = true // the pools have what they need
	switch cloud.KindOf(err) {
	case cloud.Unknown:
		for _, p := range ret.Pieces {
			one := ret
			one.Pieces = []cloud.Piece{p}
			s.givenBack[p.Prefix] = givenBack{Return: one, at: now}
		}
		if err != nil {
			return // see session.doubt
		}
	case cloud.Throttled, cloud.Credentials, cloud.Gone:
		s.refusal = s.newStop(now, s.refusal, issue)
		return
	default:
		issue.Text = fmt.Sprintf("SpiderIPPool %s keeps addresses that no pod needs: %s", ret.Pool, issue.Text)
		s.refusal = &stop{Issue: issue, until: now.Add(refusedTime), pause: stopMax}
		for _, p := range ret.Pieces {
			s.keep(ret.Pool, p)
		}
		return
	}
	s.refusal = nil
	if full := (cloud.Place{ID: ret.Interface, Family: ret.Family}); s.stops[full] != nil && s.stops[full].Reason == cloud.TypeLimit {
		s.end(full) // it has room now
	}
	s.histories[instance] = s.histories[instance].Unassigned(ret.Interface, prefixes)
	s.returning[ret.Pool] = slices.DeleteFunc(slices.Clone(s.returning[ret.Pool]), func(p netip.Prefix) bool { return slices.Contains(prefixes, p) })
}

// unassigned returns the addresses of pools of fixed addresses that the cloud has taken back for certain: no interface has them, and no call
// that may have taken them is open.
func (s *session) unassigned(now time.Time, in *input) inet.Set {
	if len(in.fixed) == 0 || len(s.withheld) == 0 || len(s.doubts) > 0 {
		return inet.Set{}
	}
	var doubted []inet.Set
	for piece := range s.givenBack {
		doubted = append(doubted, inet.OfPrefix(piece)) // the histories lack these, whatever the cloud has said
	}
	for _, pool := range in.existing {
		doubted = append(doubted, pool.IPs)
	}
	return cloud.Unassigned(now, in.fixedAddrs().Minus(inet.Union(doubted...)), s.membersOf(in))
}

// restore ends the withholding of addresses that a pool has now, because the cloud has assigned them again or the pool keeps
// them. others are addresses of other owners, and fixed ones that the cloud has taken back: they need no proof. The agents must have had time
// to learn that the former pool has lost them.
func (r *Reconciler) restore(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, others inet.Set, pools []cloud.Device) error {
	if len(s.withheld) == 0 || !s.settled(r.clock.Now()) {
		return nil
	}
	var errs []error
	for _, h := range s.ofNetwork(network.Name) {
		var used []inet.Set
		for _, p := range pools {
			if p.Name == h.Pool {
				used = append(used, p.IPs.And(s.stays[p.Name]))
			} else if p.IPs.Overlaps(h.Addrs) {
				used = append(used, p.IPs)
			}
		}
		if addrs := h.Addrs.And(inet.Union(append(used, others)...)); !addrs.IsEmpty() {
			s.looked = false
			errs = append(errs, r.Withholder.Restore(ctx, h, addrs))
		}
	}
	return errors.Join(errs...)
}
