package peergroup

import (
	"maps"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
)

// limits bound the groups.
type limits struct {
	// slice is the maximum number of members in one object.
	slice int
	// groups and members are those that the policies of one namespace may cause.
	groups, members int
}

var defaultLimits = limits{slice: compile.MaxPeers, groups: 1000, members: 500_000}

// index has the groups in use with their members. It is a value in memory: its methods take changes of the cluster, and
// the groups that differ from the API server are in dirty.
//
// A change of one pod costs a comparison with the groups of its namespace, whatever the size of the cluster.
type index struct {
	limits
	spaces map[string]*space
	groups map[string]*group // by name
	users  map[policy.Name]*user
	spent  map[string]*spending // by namespace of the policies
	dirty  map[*group]bool
	// unused are groups without a policy, with the time of the last use. They may be those of an earlier process, whose
	// selectors are unknown.
	unused map[*group]time.Time
}

// space is a namespace.
type space struct {
	exists bool
	labels map[string]string
	pods   map[string]*policy.Pod // by name
	groups []*group               // that select the namespace
}

// user is a policy.
type user struct {
	groups map[string]policy.Group // by name
	// refused are the groups beyond the limits of the namespace.
	refused []string
}

// spending counts what the policies of a namespace cause.
type spending struct{ groups, members int }

func newIndex(l limits) *index {
	return &index{
		limits: l,
		spaces: map[string]*space{}, groups: map[string]*group{}, users: map[policy.Name]*user{}, spent: map[string]*spending{},
		dirty: map[*group]bool{}, unused: map[*group]time.Time{},
	}
}

func (x *index) space(name string) *space {
	s := x.spaces[name]
	if s == nil {
		s = &space{pods: map[string]*policy.Pod{}}
		x.spaces[name] = s
		for _, g := range x.groups {
			if x.selects(g, name, s) {
				s.groups = append(s.groups, g)
			}
		}
	}
	return s
}

// selects reports whether pods of a namespace may be in the group. A selector of namespaces selects those that exist.
func (x *index) selects(g *group, name string, s *space) bool {
	return g.known && (g.Namespace != "" || s.exists) && g.SelectsNamespace(name, s.labels)
}

// setPod adds or replaces a pod, or removes it with nil.
func (x *index) setPod(name policy.Name, pod *policy.Pod) {
	s := x.space(name.Namespace)
	old := s.pods[name.Name]
	if pod == nil {
		delete(s.pods, name.Name)
	} else {
		s.pods[name.Name] = pod
	}
	for _, g := range s.groups {
		x.replace(g, old, pod)
	}
	x.forget(name.Namespace)
}

// replace changes the members of a group. New members come first, so that those of both pods stay where they are.
func (x *index) replace(g *group, old, pod *policy.Pod) {
	var before, after []policy.Member
	if old != nil {
		before = g.Members(old)
	}
	if pod != nil {
		after = g.Members(pod)
	}
	if slices.Equal(before, after) {
		return
	}
	size := g.size
	for _, m := range after {
		g.add(m)
	}
	for _, m := range before {
		g.remove(m)
	}
	if g.payer != "" {
		x.spent[g.payer].members += g.size - size
	}
	x.mark(g)
}

func (x *index) mark(g *group) {
	if g.stale() {
		x.dirty[g] = true
	}
}

// setNamespace adds or replaces a namespace.
func (x *index) setNamespace(name string, labels map[string]string) {
	s := x.space(name)
	s.exists, s.labels = true, labels
	x.reselect(name, s)
}

// deleteNamespace removes a namespace. Its pods are gone by then, or follow.
func (x *index) deleteNamespace(name string) {
	s := x.space(name)
	s.exists, s.labels = false, nil
	x.reselect(name, s)
	x.forget(name)
}

// forget drops what is known about a namespace without an object and without pods.
func (x *index) forget(name string) {
	if s := x.spaces[name]; !s.exists && len(s.pods) == 0 {
		delete(x.spaces, name)
	}
}

// reselect follows a change of the labels.
func (x *index) reselect(name string, s *space) {
	before := s.groups
	s.groups = nil
	for _, g := range x.groups {
		if x.selects(g, name, s) {
			s.groups = append(s.groups, g)
		}
		was, is := slices.Contains(before, g), len(s.groups) > 0 && s.groups[len(s.groups)-1] == g
		for _, pod := range s.pods {
			switch {
			case is && !was:
				x.replace(g, nil, pod)
			case was && !is:
				x.replace(g, pod, nil)
			}
		}
	}
}

// setPolicy sets the groups of a policy; none if it is gone. It returns the groups beyond the limits of its namespace.
func (x *index) setPolicy(name policy.Name, groups []policy.Group, now time.Time) (refused []policy.Group) {
	before := x.users[name]
	is := &user{groups: make(map[string]policy.Group, len(groups))}
	for _, g := range groups {
		is.groups[g.Name()] = g
	}
	delete(x.users, name)
	if len(is.groups) > 0 {
		x.users[name] = is
	}
	for _, groupName := range sortedKeys(is.groups) {
		if g := is.groups[groupName]; !x.use(name, groupName, g) {
			is.refused = append(is.refused, groupName)
			refused = append(refused, g)
		}
	}
	if before == nil {
		return refused
	}
	for groupName := range before.groups {
		if _, still := is.groups[groupName]; !still {
			x.release(name, groupName, now)
		}
	}
	return refused
}

// retry uses the refused groups of all policies again. It returns whether some are still refused.
func (x *index) retry() (refused bool) {
	for name, u := range x.users {
		u.refused = slices.DeleteFunc(u.refused, func(groupName string) bool { return x.use(name, groupName, u.groups[groupName]) })
		refused = refused || len(u.refused) > 0
	}
	return refused
}

// use adds a user to a group. It returns false if the group is new and beyond the limits.
func (x *index) use(by policy.Name, groupName string, of policy.Group) bool {
	g := x.groups[groupName]
	if g == nil || !g.known {
		if g = x.resolve(groupName, of, g); !x.pays(by.Namespace, g) {
			x.withdraw(g)
			return false
		}
		x.groups[groupName] = g
		x.charge(by.Namespace, g)
		x.mark(g)
	}
	g.users[by] = true
	delete(x.unused, g)
	return true
}

// resolve returns a group with its members. It keeps the places of the stored members; stored may be nil.
func (x *index) resolve(name string, of policy.Group, stored *group) *group {
	g := stored
	if g == nil {
		g = newGroup(name, x.slice)
	}
	if len(g.slices) == 0 {
		g.grow()
	}
	g.Group, g.known = of, true
	for spaceName, s := range x.spaces {
		if !x.selects(g, spaceName, s) {
			continue
		}
		s.groups = append(s.groups, g)
		for _, pod := range s.pods {
			for _, m := range g.Members(pod) {
				g.add(m)
			}
		}
	}
	g.sweep()
	return g
}

func (x *index) pays(namespace string, g *group) bool {
	spent := spending{}
	if already := x.spent[namespace]; already != nil {
		spent = *already
	}
	return namespace == "" || spent.groups < x.limits.groups && spent.members+g.size <= x.members
}

// charge makes a namespace pay for a group. The administrator's policies pay nothing.
func (x *index) charge(namespace string, g *group) {
	g.payer = namespace
	if namespace == "" {
		return
	}
	if x.spent[namespace] == nil {
		x.spent[namespace] = &spending{}
	}
	x.spent[namespace].groups++
	x.spent[namespace].members += g.size
}

func (x *index) refund(g *group) {
	if spent := x.spent[g.payer]; g.known && spent != nil {
		spent.groups--
		spent.members -= g.size
		if spent.groups == 0 {
			delete(x.spent, g.payer)
		}
	}
	g.payer = ""
}

// release removes a user of a group. If others remain, one of them pays.
func (x *index) release(by policy.Name, groupName string, now time.Time) {
	g := x.groups[groupName]
	if g == nil || !g.users[by] {
		return
	}
	delete(g.users, by)
	if len(g.users) == 0 {
		x.unused[g] = now
		return
	}
	if g.payer != by.Namespace {
		return
	}
	for other := range g.users {
		if other.Namespace == by.Namespace {
			return
		}
	}
	x.refund(g)
	for other := range g.users {
		x.charge(other.Namespace, g)
		return
	}
}

// overdrawn withdraws a group that has grown beyond the limit of its payer if no other user can pay. It returns the users,
// whose pods keep their last state. retry uses the group again.
func (x *index) overdrawn(g *group) (users []policy.Name) {
	spent := x.spent[g.payer]
	if spent == nil || spent.members <= x.members {
		return nil
	}
	for name := range g.users {
		if name.Namespace != g.payer && x.pays(name.Namespace, g) {
			x.refund(g)
			x.charge(name.Namespace, g)
			return nil
		}
		users = append(users, name)
	}
	for _, name := range users {
		x.users[name].refused = append(x.users[name].refused, g.name)
	}
	x.withdraw(g)
	return users
}

// withdraw removes a group, and leaves its objects to be deleted.
func (x *index) withdraw(g *group) {
	x.refund(g)
	for _, s := range x.spaces {
		s.groups = slices.DeleteFunc(s.groups, func(other *group) bool { return other == g })
	}
	delete(x.unused, g)
	g.discard()
	x.groups[g.name] = g
	x.mark(g)
	x.drop(g)
}

// drop forgets a withdrawn group once it has no objects.
func (x *index) drop(g *group) {
	if !g.known && len(g.slices)+len(g.versions) == 0 {
		delete(x.groups, g.name)
		delete(x.dirty, g)
	}
}

// adopt takes over an object of an earlier process. intact means that the object is as we would write it.
func (x *index) adopt(stored compile.PeerSlice, version string, intact bool, now time.Time) {
	g := x.groups[stored.Group]
	if g == nil {
		g = newGroup(stored.Group, x.slice)
		x.groups[g.name] = g
		x.unused[g] = now
	}
	g.adopt(stored, version, intact)
}

// expire withdraws the groups that have been unused since a time. It returns the time of the next one to expire, zero if
// there is none.
func (x *index) expire(since time.Time) (next time.Time) {
	for g, last := range x.unused {
		switch {
		case !last.After(since):
			x.withdraw(g)
		case next.IsZero() || last.Before(next):
			next = last
		}
	}
	return next
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
