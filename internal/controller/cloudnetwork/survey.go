package cloudnetwork

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
)

// owned is the memory about the interfaces that the controller creates. It may be lost at any time: their tags and
// status.changes have all that a new leader needs.
type owned struct {
	found     cloud.Listings
	listAt    time.Time                 // of the next listing; the zero time is now
	results   map[string]result         // of our calls, until a listing shows them, by interface
	subnets   map[string][]cloud.Subnet // by the text of their tags
	described time.Time                 // when they were
	describe  bool                      // they are needed
	stops     map[string]*stop          // by place
	unneeded  map[string]time.Time      // since when, by interface
	attempts  map[cloud.Position]int
	more      bool // the next reconcile is to go on at once
}

// result is what a call has made of an interface.
type result struct {
	cloud.Interface
	gone   bool
	at     time.Time
	denied time.Time // when a later listing first showed something else
}

// confirms reports whether a listing shows the result. A deletion is never confirmed: an older listing may follow.
func (known result) confirms(shown cloud.Interface, exists bool) bool {
	return !known.gone && exists && (known.Attached == "" || shown.Attached == known.Attached && !shown.Survives)
}

// denies reports whether two listings, all of them after the call, show something else: others have changed the interface since.
func (known *result) denies(now time.Time) bool {
	if known.gone || now.Sub(known.at) < cloud.Apart {
		return false
	}
	if known.denied.IsZero() {
		known.denied = now
	}
	return now.Sub(known.denied) >= cloud.Apart
}

func newOwned() owned {
	return owned{results: map[string]result{}, stops: map[string]*stop{}, attempts: map[cloud.Position]int{}}
}

// questions is the place of a refusal to list interfaces or to describe subnets.
const questions = "questions"

// survey asks about the interfaces with the owner's tags and about the subnets for new ones, if that is due.
func (s *session) survey(ctx context.Context, now time.Time, owner map[string]string, attaches []v2beta1.CloudInterface) []cloud.Issue {
	o := &s.own
	o.more = false
	former := o.stops[questions]
	if former != nil && now.Before(former.until) {
		return []cloud.Issue{former.Issue}
	}
	err := s.list(ctx, now, owner)
	if err == nil && o.describe {
		err = s.describeTagged(ctx, now, attaches)
	}
	if err != nil {
		o.stops[questions] = s.newStop(now, former, faultOf(err))
		return []cloud.Issue{o.stops[questions].Issue}
	}
	delete(o.stops, questions)
	return nil
}

// list lists the interfaces with the owner's tags.
func (s *session) list(ctx context.Context, now time.Time, owner map[string]string) error {
	if now.Before(s.own.listAt) {
		return nil
	}
	ctx, cancel := limited(ctx, 1, 1)
	defer cancel()
	found, err := s.provider.Interfaces(ctx, cloud.Query{Tags: owner})
	if err != nil {
		return err
	}
	o := &s.own
	o.found = o.found.Add(cloud.Listing{At: now, Interfaces: found})
	o.listAt = now.Add(resyncMax - s.jitter(resyncJitter))
	for id, known := range o.results {
		shown, exists := o.found.Interface(id)
		switch {
		case now.Sub(known.at) > staleMax, known.confirms(shown, exists), known.denies(now):
			delete(o.results, id)
			continue
		case known.gone:
			o.found = o.found.Without(id)
		default:
			o.found = o.found.With(known.Interface)
		}
		if o.results[id] = known; !known.denied.IsZero() {
			o.listAt = now.Add(cloud.Apart)
		}
	}
	return nil
}

// describeTagged describes the subnets for new interfaces.
func (s *session) describeTagged(ctx context.Context, now time.Time, attaches []v2beta1.CloudInterface) error {
	o := &s.own
	o.subnets, o.described = map[string][]cloud.Subnet{}, time.Time{}
	for _, i := range attaches {
		text := textOf(i.Attach.SubnetTags)
		if _, known := o.subnets[text]; known {
			continue
		}
		ctx, cancel := limited(ctx, callSubnets, callSubnets)
		found, err := s.provider.Subnets(ctx, nil, i.Attach.SubnetTags)
		cancel()
		if err != nil {
			return err
		}
		o.subnets[text] = found
		for _, subnet := range found {
			s.subnets[subnet.ID] = subnet
		}
	}
	o.described, o.describe = now, false
	return nil
}

// take subtracts from the description of a subnet what a new interface needs.
func (o *owned) take(subnet string) {
	for _, found := range o.subnets {
		for i := range found {
			if found[i].ID == subnet {
				found[i].Free -= cloud.NewNeeds
			}
		}
	}
}

// textOf returns tags in order, e.g. "pods=yes, zone". An empty value stands for any.
func textOf(tags map[string]string) string {
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		texts = append(texts, strings.TrimSuffix(key+"="+tags[key], "="))
	}
	return strings.Join(texts, ", ")
}

// follow has the next reconcile ask what the plan needs to know.
func (o *owned) follow(plan cloud.AttachPlan) {
	o.unneeded, o.describe = plan.Unneeded, plan.Describe
	switch {
	case plan.List:
		o.listAt = time.Time{}
	case plan.Relist:
		if at := o.found.At().Add(cloud.Apart); at.Before(o.listAt) {
			o.listAt = at
		}
	}
	o.more = (plan.List || plan.Describe) && o.stops[questions] == nil
}

// remember counts the result of a call like two listings.
func (o *owned) remember(one result) {
	o.results[one.ID] = one
	if one.gone {
		o.found = o.found.Without(one.ID)
	} else {
		o.found = o.found.With(one.Interface)
	}
}

// relist forgets the listings: two newer ones have to show what a call has done.
func (o *owned) relist() {
	o.found, o.listAt = cloud.Listings{}, time.Time{}
}

// lookSince has two listings made after a time, which show what a call has done. Older ones are forgotten.
func (o *owned) lookSince(now, t time.Time) {
	o.found = o.found.Since(t)
	if at, ok := o.found.Next(); ok && at.Before(o.listAt) {
		o.listAt = at
	}
}

// allow ends the refusals at places.
func (o *owned) allow(places ...string) {
	for _, place := range places {
		delete(o.stops, place)
	}
}

// next passes the times when something is due.
func (o *owned) next(earlier func(time.Time)) {
	for _, stop := range o.stops {
		earlier(stop.until)
	}
	for _, since := range o.unneeded {
		earlier(since.Add(cloud.Grace))
	}
	if !o.listAt.IsZero() {
		earlier(o.listAt)
	}
}
