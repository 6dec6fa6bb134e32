package policyview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
)

// group is a peer group that pods need.
type group struct {
	selects string // for users
	users   map[lease.PodKey]bool
	last    time.Time // of the last use
	stop    context.CancelFunc
	slices  map[int]*compile.PeerSlice // the received objects, by index
	gone    map[int]bool               // those deleted since
	// addresses is nil after a change, until the next decision needs them.
	addresses *policy.Resolved
	// complete means that all objects have been received since the first one exists.
	complete bool
}

// received is a Resolver by the received groups. It notes the groups, and those that are missing.
type received struct {
	view    *View
	groups  map[string]bool
	missing []string
}

// Resolve implements policy.Resolver.
func (r *received) Resolve(g policy.Group) policy.Resolved {
	name := g.Name()
	followed := r.view.groups[name]
	if followed == nil {
		followed = r.view.followGroup(name, g.String())
	}
	if !r.groups[name] {
		r.groups[name] = true
		if !followed.complete {
			r.missing = append(r.missing, fmt.Sprintf("peer group %s (%s)", name, followed.selects))
		}
	}
	if !followed.complete {
		return policy.Resolved{}
	}
	return followed.resolved()
}

// resolved returns the addresses of a complete group.
func (g *group) resolved() policy.Resolved {
	if g.addresses == nil {
		var members []policy.Member
		for index, slice := range g.slices {
			if index < g.counted() {
				members = append(members, slice.Members...)
			}
		}
		all := policy.ResolvedOf(members)
		g.addresses = &all
	}
	return *g.addresses
}

func (v *View) followGroup(name, selects string) *group {
	g := &group{selects: selects, users: map[lease.PodKey]bool{}, slices: map[int]*compile.PeerSlice{}, gone: map[int]bool{}, last: time.Now()}
	v.groups[name] = g
	g.stop = v.start(func(ctx context.Context) {
		v.source.FollowGroup(ctx, name, func(index int, slice *compile.PeerSlice) { v.setSlice(name, g, index, slice) }, v.log)
	})
	return g
}

// setSlice takes a new state of one object of a group, nil if it is gone. The objects arrive in any order.
func (v *View) setSlice(name string, g *group, index int, slice *compile.PeerSlice) {
	v.mu.Lock()
	defer v.unlock()
	switch {
	case slice != nil:
		g.slices[index] = slice
		delete(g.gone, index)
	case index == 0:
		delete(g.slices, index)
	default:
		g.gone[index] = true
	}
	for at := range g.gone {
		// While the first object counts it, the deletion is no change of the group: the last state stays.
		if at >= g.counted() {
			delete(g.slices, at)
			delete(g.gone, at)
		}
	}
	if g.slices[0] == nil {
		g.complete, g.addresses = false, nil
		v.outdate(name)
		return
	}
	if g.received() {
		g.complete, g.addresses = true, nil
		v.outdate(name)
		v.tell(func(p *pod) bool { return p.groups[name] })
	}
}

// counted returns the number of objects in the first one, 0 before it has been received.
func (g *group) counted() int {
	if g.slices[0] == nil {
		return 0
	}
	return max(g.slices[0].Slices, 1)
}

// received reports whether all slices are there.
func (g *group) received() bool {
	for index := range g.counted() {
		if g.slices[index] == nil {
			return false
		}
	}
	return true
}

// outdate drops the decisions with a group.
func (v *View) outdate(name string) {
	for key, d := range v.decided {
		if d.groups[name] {
			delete(v.decided, key)
		}
	}
}

// tidy ends the watches of groups that no pod has needed since a time, and drops the decisions of former pods.
func (v *View) tidy(since time.Time) {
	v.mu.Lock()
	defer v.unlock()
	for name, g := range v.groups {
		if len(g.users) == 0 && g.last.Before(since) {
			g.stop()
			delete(v.groups, name)
			v.outdate(name)
		}
	}
	used := map[string]bool{}
	for _, p := range v.pods {
		for _, key := range p.keys {
			used[key] = true
		}
	}
	maps.DeleteFunc(v.decided, func(key string, _ *decision) bool { return !used[key] })
}

// readPorts reads the named ports of a pod until it succeeds, the pod is gone, or ctx ends.
func (v *View) readPorts(ctx context.Context, name lease.PodKey, uid string) (ports []policy.NamedPort, err error) {
	pauses := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Cap: 10 * time.Second, Steps: math.MaxInt}
	waited := pauses.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		ports, err = v.source.NamedPorts(ctx, name, uid)
		if errors.Is(err, ipam.ErrNotFound) {
			return false, err
		}
		if err != nil && ctx.Err() == nil {
			v.log.Warn("cannot read the named ports of a pod; will retry", "pod", name, "err", err)
		}
		return err == nil, nil
	})
	return ports, waited
}
