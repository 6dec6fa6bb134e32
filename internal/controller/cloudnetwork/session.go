package cloudnetwork

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// session is the memory about one SpiderCloudNetwork: answers of the cloud, and when to
// ask again.
type session struct {
	key       string // provider and region
	provider  cloud.Provider
	histories map[string]cloud.History // by instance
	subnets   map[string]cloud.Subnet
	described time.Time // of the oldest description of a subnet
	resync    time.Time // of the next question about all nodes
	again     map[string]*repeat
	heard     map[string]time.Time // when an agent told that the cloud has changed something, by node
	asked     time.Time            // of the last question
	shrunk    time.Time            // of the last change that agents must have read before the next one
	failures  int                  // in a row
	behind    int                  // attempts in a row that met a conflict
	retry     time.Time
	fault     *cloud.Issue
	jitter    func(limit time.Duration) time.Duration // random, below the limit
	own       owned
	fixed     followed
	managed
}

// repeat is a question about one node to ask again.
type repeat struct {
	at    time.Time
	pause time.Duration // before at
	news  bool          // only because of news: no answer has shown a difference yet
}

// member is a node with its instance.
type member struct {
	node, instance string // the instance is empty for a node of another cloud
	maxPods        int64  // 0 for unknown
}

func newSession(key string, provider cloud.Provider, now time.Time, jitter func(time.Duration) time.Duration) *session {
	return &session{
		jitter: jitter, managed: newManaged(), own: newOwned(), fixed: newFollowed(now),
		key: key, provider: provider, resync: now, shrunk: now, described: now,
		histories: map[string]cloud.History{}, subnets: map[string]cloud.Subnet{}, again: map[string]*repeat{}, heard: map[string]time.Time{},
	}
}

// ask asks the cloud about the instances that are due, in one batch. It returns the
// present fault of the cloud, or nil.
func (s *session) ask(ctx context.Context, now time.Time, nodes []member) *cloud.Issue {
	if now.Before(s.retry) {
		return s.fault
	}
	full := !now.Before(s.resync)
	due := s.due(now, nodes, full)
	if len(due) == 0 {
		s.fault = nil
		if full {
			s.resync = now.Add(resyncMax)
		}
		return nil
	}
	s.asked = now
	instances, err := s.instances(ctx, due)
	if err == nil {
		err = s.describeSubnets(ctx, now, instances, full)
	}
	if err != nil {
		s.backOff(now, err)
		return s.fault
	}
	s.failures, s.fault = 0, nil
	byID := map[string]*cloud.Instance{}
	for i := range instances {
		byID[instances[i].ID] = &instances[i]
	}
	for _, id := range due {
		s.histories[id] = s.doubted(now, s.histories[id].Add(cloud.Answer{At: now, Instance: byID[id]}))
	}
	if full {
		s.resync = now.Add(resyncMax - s.jitter(resyncJitter))
		s.looked = false // see what others have written
	}
	return nil
}

// limited returns a context with the time for a question about n things, each of them a
// part of the calls that callTimeout is for.
func limited(ctx context.Context, n, each int) (context.Context, context.CancelFunc) {
	calls := max(1, (n+each-1)/each)
	return context.WithTimeout(ctx, time.Duration(calls)*callTimeout)
}

func (s *session) instances(ctx context.Context, ids []string) ([]cloud.Instance, error) {
	ctx, cancel := limited(ctx, len(ids), callInstances)
	defer cancel()
	return s.provider.Instances(ctx, ids)
}

// due returns the instances to ask about, and forgets those without a node. Several nodes
// may name one instance.
func (s *session) due(now time.Time, nodes []member, full bool) []string {
	wanted := map[string]bool{} // all instances: true for those to ask about
	for _, m := range nodes {
		if m.instance == "" {
			delete(s.again, m.node)
			continue
		}
		r := s.again[m.node]
		repeated := r != nil && !now.Before(r.at)
		if repeated {
			r.pause = min(2*r.pause, resyncMax)
			r.at = now.Add(r.pause)
		}
		wanted[m.instance] = wanted[m.instance] || full || repeated || !s.histories[m.instance].Answered()
	}
	maps.DeleteFunc(s.histories, func(id string, _ cloud.History) bool {
		_, present := wanted[id]
		return !present
	})
	maps.DeleteFunc(wanted, func(_ string, ask bool) bool { return !ask })
	return slices.Sorted(maps.Keys(wanted))
}

// describeSubnets asks about the subnets of instances that are not known or were not described for long.
func (s *session) describeSubnets(ctx context.Context, now time.Time, instances []cloud.Instance, full bool) error {
	if full && now.Sub(s.described) > subnetsMax {
		s.described = now
		clear(s.subnets)
	}
	wanted := map[string]bool{}
	if full {
		maps.Copy(wanted, s.fixed.unreserved) // the user may have reserved them
	}
	for _, instance := range instances {
		for _, i := range instance.Interfaces {
			if _, known := s.subnets[i.Subnet]; !known {
				wanted[i.Subnet] = true
			}
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	ctx, cancel := limited(ctx, len(wanted), callSubnets)
	defer cancel()
	subnets, err := s.provider.Subnets(ctx, slices.Sorted(maps.Keys(wanted)), nil)
	for _, subnet := range subnets {
		s.subnets[subnet.ID] = subnet
	}
	return err
}

// backOff sets the time of the next attempt after an error.
func (s *session) backOff(now time.Time, err error) {
	pause := min(time.Second<<min(s.failures, 10), resyncMax)
	pause += s.jitter(pause)
	if e, ok := errors.AsType[*cloud.Error](err); ok {
		pause = max(pause, e.After)
	}
	s.failures++
	s.retry = now.Add(pause)
	fault := faultOf(err)
	s.fault = &fault
}

// plan sets the times of the next questions about single nodes.
func (s *session) plan(now time.Time, plan cloud.Plan) {
	maps.DeleteFunc(s.again, func(node string, _ *repeat) bool { return !slices.Contains(plan.Again, node) && s.heard[node].IsZero() })
	soon := now.Add(cloud.Apart)
	for _, node := range plan.Again {
		switch r := s.again[node]; {
		case r == nil:
			s.again[node] = &repeat{at: soon, pause: cloud.Apart}
		case r.news: // the first answer with a difference; the next one is to confirm it
			*r = repeat{at: soon, pause: cloud.Apart}
		case r.at.After(soon) && slices.Contains(plan.Unconfirmed, node):
			r.at = soon // the pause is for nodes without news
		}
	}
}

// askNow has the next reconcile ask about nodes.
func (s *session) askNow(now time.Time, nodes []string) {
	for _, node := range nodes {
		s.again[node] = &repeat{at: now.Add(time.Millisecond), pause: cloud.Apart}
	}
}

// askBy has a reconcile ask about a node at a time, or earlier.
func (s *session) askBy(now time.Time, node string, at time.Time) {
	if !at.After(now) {
		at = now.Add(time.Millisecond)
	}
	if r := s.again[node]; r == nil || r.at.After(at) {
		s.again[node] = &repeat{at: at, pause: cloud.Apart}
	}
}

// conflict returns the time until the next attempt after a conflict, and has it ask about the nodes. The pause doubles: the cache may be
// behind for long, if a watch is broken.
func (s *session) conflict(now time.Time, nodes []string) time.Duration {
	pause := min(behindTime<<min(s.behind, 10), countTime)
	s.behind++
	s.askNow(now.Add(pause-time.Millisecond), nodes)
	return pause
}

// nextManaged passes the times when something is due in the mode Manage.
func (s *session) nextManaged(earlier func(time.Time)) {
	for _, stop := range s.stops {
		earlier(stop.until)
	}
	for _, d := range s.doubts {
		earlier(d.over)
	}
	if s.refusal != nil {
		earlier(s.refusal.until)
	}
	s.own.next(earlier)
	s.nextFixed(earlier)
	if len(s.returning) > 0 || len(s.withheld) > 0 {
		earlier(s.shrunk.Add(settleTime))
	}
}

// settled reports whether the agents have had time to read the last change that must not overtake another.
func (s *session) settled(now time.Time) bool { return now.Sub(s.shrunk) >= settleTime }

// shrinks reports whether a plan reserves addresses, or takes some out of a pool.
func (s *session) shrinks(d cloud.Discovery, plan cloud.Plan) bool {
	if !plan.Reserved.Equal(d.Reserved) || len(plan.Delete) > 0 {
		return true
	}
	next := make(map[string]cloud.Device, len(plan.Pools))
	for _, p := range plan.Pools {
		next[p.Name] = p
	}
	return slices.ContainsFunc(d.Pools, func(have cloud.ExistingPool) bool {
		p, ok := next[have.Name]
		return ok && !p.IPs.ContainsSet(have.IPs)
	})
}

// next returns the time until the next reconcile. Times that are over were for this one.
func (s *session) next(now time.Time, plan cloud.Plan) time.Duration {
	due := now.Add(countTime)
	earlier := func(t time.Time) {
		if t.After(now) && t.Before(due) {
			due = t
		}
	}
	if s.more || s.own.more || s.fixed.more {
		return 100 * time.Millisecond
	}
	s.nextManaged(earlier)
	if s.fault != nil {
		earlier(s.retry)
	} else {
		earlier(s.resync)
		for _, r := range s.again {
			earlier(r.at)
		}
	}
	if !plan.Reserved.IsEmpty() {
		earlier(s.shrunk.Add(settleTime))
	}
	return max(due.Sub(now), 100*time.Millisecond)
}
