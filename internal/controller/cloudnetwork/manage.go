package cloudnetwork

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/observe"
)

const (
	// fragmentedTime is how long a subnet without room for a prefix gets single addresses before the next attempt.
	fragmentedTime = 10 * time.Minute
	// refusedTime is how long a pool keeps all its pieces after the cloud has refused to take one back.
	refusedTime = time.Hour
	// The pause after a refusal doubles from stopMin to stopMax.
	stopMin, stopMax = 5 * time.Second, 5 * time.Minute
)

// managed is the memory about the mode Manage. It may be lost at any time: the cloud, the pools, the withheld addresses
// and status.changes have all that a new leader needs.
type managed struct {
	limits     map[string]cloud.Limits
	limitsAt   map[string]time.Time // when we asked about a type that the cloud did not tell
	limitless  *cloud.Issue         // why
	stops      map[cloud.Place]*stop
	fragmented map[string]time.Time // until when, by subnet
	idle       map[string]cloud.Idle
	returning  map[string][]netip.Prefix
	withheld   []withhold.Withheld // of all networks
	looked     bool                // withheld is up to date
	stays      map[string]inet.Set // withheld addresses that the pool keeps after all
	doubts     map[string]doubt    // calls whose outcome is not known, by ID
	ended      map[string]time.Time
	changed    map[string]time.Time // when our last call about a node ended
	refusal    *stop                // of the cloud, to take a piece back
	givenBack  map[netip.Prefix]givenBack
	more       bool // calls wait for the next reconcile
}

// stop is a refusal of the cloud.
type stop struct {
	cloud.Issue
	until time.Time
	pause time.Duration
}

func newManaged() managed {
	return managed{
		limits: map[string]cloud.Limits{}, limitsAt: map[string]time.Time{}, stops: map[cloud.Place]*stop{}, fragmented: map[string]time.Time{}, stays: map[string]inet.Set{},
		givenBack: map[netip.Prefix]givenBack{}, doubts: map[string]doubt{}, ended: map[string]time.Time{}, changed: map[string]time.Time{}, idle: map[string]cloud.Idle{},
	}
}

// manage looks at the withheld addresses and, in the mode Manage, makes the calls that change the cloud. The answers of the cloud to them
// count for the pools at once.
func (r *Reconciler) manage(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, asked time.Time) (cloud.ManagePlan, []cloud.Issue, error) {
	now := r.clock.Now()
	if err := r.look(ctx, network, s); err != nil {
		return cloud.ManagePlan{}, nil, err
	}
	busy, again := s.doubt(now, network, in.nodes)
	if err := r.record(ctx, network, s, nil); err != nil {
		return cloud.ManagePlan{}, nil, fmt.Errorf("remove ended calls from the status: %w", err)
	}
	s.forget(now, in.nodes)
	var limitless *cloud.Issue
	if manages(network) {
		limitless = s.readLimits(ctx, now, in.nodes)
	}
	attached, issues, err := r.attachInterfaces(ctx, network, s, in, busy, asked)
	if err != nil {
		return cloud.ManagePlan{}, nil, err
	}
	faults, again := issues, append(again, attached.Again...)
	if !manages(network) {
		if len(busy) == 0 { // the cloud has taken back, or will, what a call without an answer names
			for _, h := range s.ofNetwork(network.Name) {
				s.stays[h.Pool] = inet.Union(s.stays[h.Pool], h.Addrs)
			}
		}
		s.idle, s.returning, s.more, s.fixed.more = nil, nil, false, false
		return cloud.ManagePlan{Again: again}, faults, nil
	}
	waiting, err := r.waiting(ctx, network, in)
	if err != nil {
		return cloud.ManagePlan{}, nil, err
	}
	moved, ask, err := r.follow(ctx, network, s, in, busy)
	if err != nil {
		return cloud.ManagePlan{}, nil, err
	}
	faults, again = append(faults, moved...), append(again, ask...)
	plan := cloud.Manage(s.management(in.discovery(network, s, asked), network, in, waiting, busy))
	s.idle, s.returning, s.more = plan.Idle, plan.Returning, false
	plan.Again, plan.Ask = append(plan.Again, again...), append(plan.Ask, attached.Ask...)
	faults = append(faults, plan.Issues...)
	if limitless != nil {
		faults = slices.Concat(degrading([]cloud.Issue{*limitless}, faults), faults)
	}
	refused, err := r.grow(ctx, network, s, in, &plan)
	if err != nil {
		return plan, nil, err
	}
	faults = append(faults, refused...)
	returned, err := r.giveBack(ctx, network, s, in, append(plan.Return, s.broughtBack(in, busy)...))
	return plan, append(faults, returned...), err
}

// forget drops what no present node needs, so that the memory does not grow while nodes come and go. A stop that nothing has met for
// long is one.
func (s *session) forget(now time.Time, nodes []member) {
	present := map[string]bool{}
	for _, n := range nodes {
		present[n.instance] = true
	}
	maps.DeleteFunc(s.own.attempts, func(at cloud.Position, _ int) bool { return !present[at.Instance] })
	maps.DeleteFunc(s.own.stops, func(_ string, one *stop) bool { return now.Sub(one.until) > stopMax })
	maps.DeleteFunc(s.stops, func(_ cloud.Place, one *stop) bool { return now.Sub(one.until) > stopMax })
	maps.DeleteFunc(s.fragmented, func(_ string, until time.Time) bool { return now.After(until) })
	maps.DeleteFunc(s.changed, func(_ string, at time.Time) bool { return now.Sub(at) > newsTime })
}

func manages(network *v2beta1.SpiderCloudNetwork) bool {
	return network.Spec.Mode == v2beta1.CloudManage
}

// coolDownOf returns how long addresses must be unneeded before they are given back.
func coolDownOf(network *v2beta1.SpiderCloudNetwork) time.Duration {
	spec := ptr.Deref(network.Spec.Manage, v2beta1.CloudManagement{})
	return time.Duration(ptr.Deref(spec.CoolDownMinutes, 10)) * time.Minute
}

// management returns the input of cloud.Manage.
func (s *session) management(d cloud.Discovery, network *v2beta1.SpiderCloudNetwork, in *input, waiting map[string]int64, busy map[string]bool) cloud.Management {
	spec := ptr.Deref(network.Spec.Manage, v2beta1.CloudManagement{})
	d.Leaving = nil
	m := cloud.Management{
		Discovery: d, Limits: s.limits, Waiting: waiting, MaxPods: map[string]int64{}, Kept: in.kept, Idle: s.idle, Returning: s.returning, Busy: busy,
		KeepAll:  s.refusal != nil && d.Now.Before(s.refusal.until),
		Reserve:  ptr.Deref(spec.ReservePercent, 20),
		CoolDown: coolDownOf(network),
		Withheld: s.goingBack(network.Name), Stops: map[cloud.Place]cloud.Stop{}, Fragmented: map[string]bool{},
	}
	for _, n := range in.nodes {
		m.MaxPods[n.node] = n.maxPods
	}
	for at, stop := range s.stops {
		m.Stops[at] = cloud.Stop{Issue: stop.Issue, Due: !d.Now.Before(stop.until)}
	}
	for subnet, until := range s.fragmented {
		m.Fragmented[subnet] = d.Now.Before(until)
	}
	return m
}

// readLimits asks about the limits of instance types that are not known yet. It returns the last fault.
func (s *session) readLimits(ctx context.Context, now time.Time, nodes []member) *cloud.Issue {
	wanted := map[string]bool{}
	for _, n := range nodes {
		t := s.histories[n.instance].Type()
		asked, unknown := s.limitsAt[t]
		if _, known := s.limits[t]; t != "" && !known && (!unknown || now.Sub(asked) >= stopMax) {
			wanted[t] = true
		}
	}
	if len(wanted) == 0 {
		return s.limitless
	}
	ctx, cancel := limited(ctx, 1, 1)
	defer cancel()
	found, err := s.provider.Limits(ctx, slices.Sorted(maps.Keys(wanted)))
	s.limitless = nil
	if err != nil {
		fault := faultOf(err)
		s.limitless = &fault
	}
	for t := range wanted {
		s.limitsAt[t] = now
	}
	maps.Copy(s.limits, found)
	return s.limitless
}

// grow assigns addresses. It returns refusals that the plan does not know yet.
func (r *Reconciler) grow(ctx context.Context, network *v2beta1.SpiderCloudNetwork, s *session, in *input, plan *cloud.ManagePlan) (faults []cloud.Issue, err error) {
	wanted := plan.Assign
	if most := max(0, maxChanges-len(s.doubts)); len(wanted) > most {
		wanted, s.more = wanted[:most], most > 0
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	got := make([][]netip.Prefix, len(wanted))
	var calls []*call
	for i, g := range wanted {
		calls = append(calls, s.newCall(g.Node, g.Interface, v2beta1.CloudAssign, func(ctx context.Context) (err error) {
			got[i], err = s.assign(ctx, g)
			return err
		}))
	}
	if err := r.run(ctx, network, s, calls); err != nil {
		return nil, err
	}
	now := r.clock.Now()
	fixed := inet.Union(fixedOf(network), in.elsewhere)
	var assigned []string
	for i, g := range wanted {
		if err := calls[i].err; err != nil {
			if d, unknown := s.doubts[calls[i].ID]; unknown {
				d.pool, d.had = g.Pool, s.histories[in.instanceOf(g.Node)].Pieces(g.Interface)
				s.doubts[calls[i].ID] = d
			}
			if issue := s.refused(now, g, in.pools[g.Pool] != nil, err); issue != nil {
				faults = append(faults, *issue)
			}
			plan.Room[g.Pool] = 0
			r.log.WarnContext(ctx, "the cloud assigned nothing", "node", g.Node, "interface", g.Interface, "err", err)
			continue
		}
		instance := in.instanceOf(g.Node)
		plan.Room[g.Pool] = max(0, plan.Room[g.Pool]-int64(len(got[i]))*g.Size)
		s.histories[instance] = s.histories[instance].Assigned(g.Interface, got[i])
		s.regained(network.Name, g.Pool, got[i])
		s.grown(now, g, got[i], fixed)
		assigned = append(assigned, fmt.Sprintf("%s to %s of node %s", join(got[i]), g.Interface, g.Node))
		r.log.InfoContext(ctx, "assigned addresses", "node", g.Node, "interface", g.Interface, "pieces", fmt.Sprint(got[i]))
	}
	if len(assigned) > 0 {
		r.status.Recorder.Record(network, nil, observe.AddressesAssigned(assigned))
	}
	return faults, nil
}

// grown sets the stops of an interface that has got pieces, which are no longer given back. Those with fixed addresses are of no use to the
// pool: see cloud.Manage.
func (s *session) grown(now time.Time, g cloud.Growth, pieces []netip.Prefix, fixed inet.Set) {
	useless := 0
	for _, piece := range pieces {
		delete(s.givenBack, piece)
		if inet.OfPrefix(piece).Overlaps(fixed) {
			useless++
		}
	}
	s.more = s.more || useless > 0
	places := placesOf(g)
	at := places[2]
	if useless < len(pieces) {
		s.end(at)
	} else if g.Last {
		// The interface is full of them. They go back, and the cloud might assign the same ones again, so pause.
		s.stops[at] = s.newStop(now, s.stops[at], cloud.Issue{Reason: cloud.RangeNotReserved, Text: fmt.Sprintf(
			"the cloud has given interface %s only pieces with fixed addresses, the last ones %s, and the controller gives them back; make an explicit reservation in subnet %s for spec.interfaces[].fixedAddresses[].ips of all SpiderCloudNetworks",
			g.Interface, join(pieces), g.Subnet)})
	}
	s.end(places[:2]...)
}

// end ends the stops at places. The plan has reported them, so the next reconcile comes at once.
func (s *session) end(places ...cloud.Place) {
	for _, place := range places {
		s.more = s.more || s.stops[place] != nil
		delete(s.stops, place)
	}
}

// join returns pieces as text, e.g. "172.31.32.16/28 172.31.32.64/28".
func join(pieces []netip.Prefix) string { return strings.Trim(fmt.Sprint(pieces), "[]") }

// assign makes one assignment. If the cloud has no room for all pieces, it asks for one.
func (s *session) assign(ctx context.Context, g cloud.Growth) ([]netip.Prefix, error) {
	pieces, err := s.provider.Assign(ctx, g.Assignment)
	if kind := cloud.KindOf(err); err != nil && g.Count > 1 && (kind == cloud.NoCapacity || kind == cloud.Fragmented) {
		g.Count = 1
		return s.provider.Assign(ctx, g.Assignment)
	}
	return pieces, err
}

// placesOf returns the places where a refusal may hold, the widest first.
func placesOf(g cloud.Growth) [3]cloud.Place {
	return [3]cloud.Place{{Family: g.Family}, {ID: g.Subnet, Family: g.Family}, {ID: g.Interface, Family: g.Family}}
}

// refused remembers that the cloud has assigned nothing, and where that holds. A subnet without room for an IPv4 prefix gets single
// addresses, without a pause. It returns a refusal that is new, which degrades the network if the pool exists.
func (s *session) refused(now time.Time, g cloud.Growth, exists bool, err error) *cloud.Issue {
	places, kind := placesOf(g), cloud.KindOf(err)
	if g.Unit == cloud.Prefixes && g.Family == inet.IPv4 && (kind == cloud.Fragmented || kind == cloud.NoCapacity) {
		s.fragmented[g.Subnet], s.more = now.Add(fragmentedTime), true
		return nil
	}
	at := places[2]
	switch kind {
	case cloud.Throttled, cloud.Permission, cloud.Credentials:
		at = places[0]
	case cloud.NoCapacity, cloud.Fragmented:
		at = places[1]
	}
	former := s.stops[at]
	issue := refusalOf(err, g)
	s.stops[at] = s.newStop(now, former, issue)
	if former != nil {
		return nil
	}
	issue.Text, issue.Degrades = fmt.Sprintf("node %s needs more %s addresses: %s", g.Node, g.Family, issue.Text), exists
	return &issue
}

// newStop returns a stop that lasts twice as long as the former one, with a random part.
func (s *session) newStop(now time.Time, former *stop, issue cloud.Issue) *stop {
	pause := stopMin
	if former != nil {
		pause = min(2*former.pause, stopMax)
	}
	return &stop{Issue: issue, until: now.Add(pause + s.jitter(pause/2)), pause: pause}
}

// refusalOf explains why the cloud has assigned nothing.
func refusalOf(err error, g cloud.Growth) cloud.Issue {
	switch cloud.KindOf(err) {
	case cloud.NoCapacity:
		return cloud.Issue{Reason: "NoCapacity", Text: fmt.Sprintf("subnet %s has no free %s address; add a CIDR or use nodes in another subnet", g.Subnet, g.Family) + said(err)}
	case cloud.Fragmented:
		return cloud.Issue{Reason: "Fragmented", Text: fmt.Sprintf("subnet %s has no room for an %s prefix; reserve a range for prefixes, or use nodes in another subnet", g.Subnet, g.Family) + said(err)}
	case cloud.Quota:
		return cloud.Issue{Reason: cloud.TypeLimit, Text: fmt.Sprintf("interface %s has all that its instance type allows; use a larger type, or another interface in spec.interfaces", g.Interface) + said(err)}
	}
	return faultOf(err)
}
