package peergroup

import (
	"maps"
	"slices"

	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
)

// group is a policy.Group with its members, divided into slices of the size of an object.
//
// A member never moves to another slice, and the object of a slice exists before the first one counts it. So the stored
// objects together are the group at any time, although a reader receives them one by one: one of them may be of a moment
// ago, but no member is missing that was there before and is there now.
type group struct {
	policy.Group
	name  string
	limit int // of the members of a slice
	// known is false for objects of an earlier process that no policy has used yet, and for a group whose objects are
	// being deleted.
	known  bool
	users  map[policy.Name]bool
	payer  string // namespace that the members count for; empty for the administrator
	slices []*slice
	size   int // distinct members
	// counted is the number of slices in the first object of an earlier process.
	counted int
	// versions are the resource versions of the objects, by index. An empty one stands for no object. There are more
	// objects than slices until the surplus is deleted.
	versions []string
}

// slice are the members in one object.
type slice struct {
	members map[policy.Member]int32 // number of pods with it
	// left are the members that the object still has. They keep their room until it is written, because another pod may get
	// the address meanwhile.
	left map[policy.Member]bool
	// stale means that the object differs.
	stale bool
}

func newSlice() *slice {
	return &slice{members: map[policy.Member]int32{}, left: map[policy.Member]bool{}, stale: true}
}

func newGroup(name string, limit int) *group {
	return &group{name: name, limit: limit, users: map[policy.Name]bool{}}
}

// add counts a pod with a member.
func (g *group) add(m policy.Member) {
	var free *slice
	for _, s := range g.slices {
		if n, ok := s.members[m]; ok {
			s.members[m] = n + 1
			if n == 0 {
				g.size++
			}
			return
		}
		if s.left[m] {
			free = s
			break
		}
		if free == nil && len(s.members)+len(s.left) < g.limit {
			free = s
		}
	}
	if free == nil {
		free = g.grow()
	}
	delete(free.left, m)
	free.members[m], free.stale = 1, true
	g.size++
}

// grow appends a slice. The first object has their number.
func (g *group) grow() *slice {
	g.slices = append(g.slices, newSlice())
	g.slices[0].stale = true
	return g.slices[len(g.slices)-1]
}

// remove is the inverse of add.
func (g *group) remove(m policy.Member) {
	for _, s := range g.slices {
		n, ok := s.members[m]
		if !ok {
			continue
		}
		if s.members[m] = n - 1; n == 1 {
			delete(s.members, m)
			s.left[m], s.stale = true, true
			g.size--
			g.trim()
		}
		return
	}
}

// trim drops empty slices at the end, once their objects are empty, too: until then, a member may come back. One stays while
// the slice before it is nearly full, so that a group whose size alternates around a multiple of the limit does not create
// and delete an object each time.
func (g *group) trim() {
	for last := len(g.slices) - 1; last > 0 && len(g.slices[last].members)+len(g.slices[last].left) == 0 && len(g.slices[last-1].members) <= g.limit*3/4; last-- {
		g.slices = g.slices[:last]
		g.slices[0].stale = true
	}
}

// adopt takes over a stored object. Its members count no pods yet.
func (g *group) adopt(stored compile.PeerSlice, version string, intact bool) {
	for len(g.slices) <= stored.Index {
		g.slices = append(g.slices, newSlice())
	}
	s := g.slices[stored.Index]
	for _, m := range stored.Members {
		s.members[m] = 0
	}
	s.stale = !intact
	if stored.Index == 0 {
		g.counted = stored.Slices
	}
	g.setVersion(stored.Index, version)
}

func (g *group) setVersion(index int, version string) {
	for len(g.versions) <= index {
		g.versions = append(g.versions, "")
	}
	g.versions[index] = version
	g.trimVersions()
}

func (g *group) trimVersions() {
	for last := len(g.versions) - 1; last >= 0 && g.versions[last] == ""; last-- {
		g.versions = g.versions[:last]
	}
}

// version returns that of the object with the index, empty if there is none.
func (g *group) version(index int) string {
	if index < len(g.versions) {
		return g.versions[index]
	}
	return ""
}

// sweep removes the stored members without a pod.
func (g *group) sweep() {
	for _, s := range g.slices {
		for m, pods := range s.members {
			if pods == 0 {
				delete(s.members, m)
				s.left[m], s.stale = true, true
			}
		}
	}
	g.trim()
	g.slices[0].stale = g.slices[0].stale || g.counted != len(g.slices)
}

// stale reports whether an object is to be written or deleted.
func (g *group) stale() bool {
	return len(g.versions) > len(g.slices) || slices.ContainsFunc(g.slices, func(s *slice) bool { return s.stale })
}

// step is a request to the API server: to write a slice, or to delete its object.
type step struct {
	index int
	put   bool
}

// steps yields the steps that bring the objects into agreement. The caller calls wrote or deleted after each, and may stop
// after any: slices are written from the last one to the first, which counts them; then the surplus is deleted. A group that
// ends loses its first object first: without it, no agent uses the others.
func (g *group) steps(yield func(step) bool) {
	for at := len(g.slices) - 1; at >= 0; at-- { // wrote may drop slices behind
		if at < len(g.slices) && g.slices[at].stale && !yield(step{at, true}) {
			return
		}
	}
	for at := len(g.slices); at < len(g.versions); at++ {
		if g.versions[at] != "" && !yield(step{at, false}) {
			return
		}
	}
}

func (g *group) wrote(index int, version string) {
	g.setVersion(index, version)
	g.slices[index].stale = false
	clear(g.slices[index].left)
	g.trim()
}

func (g *group) deleted(index int) { g.setVersion(index, "") }

// discard drops the members. The objects remain to be deleted.
func (g *group) discard() {
	g.Group, g.known, g.slices, g.size = policy.Group{}, false, nil, 0
	clear(g.users)
}

// content returns what the object with the index is to hold.
func (g *group) content(index int) compile.PeerSlice {
	return compile.PeerSlice{
		Group: g.name, Index: index, Slices: len(g.slices), Selects: g.Group.String(), Members: slices.Collect(maps.Keys(g.slices[index].members)),
	}
}
