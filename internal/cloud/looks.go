package cloud

import (
	"slices"
	"time"
)

// Apart is the least time between two answers of a cloud before their agreement proves
// a change. Answers of the same moment may come from the same stale replica.
const Apart = 5 * time.Second

// looks are the latest look at the cloud, and the newest one at least Apart before it. The zero value has none. Looks never change.
type looks[T interface{ time() time.Time }] struct {
	earlier, latest *T
	between         []*T // oldest first; each may become the earlier one
}

func (l looks[T]) add(one T) looks[T] {
	if l.latest != nil {
		l.between = append(slices.Clone(l.between), l.latest)
	}
	for len(l.between) > 0 && one.time().Sub((*l.between[0]).time()) >= Apart {
		l.earlier, l.between = l.between[0], l.between[1:]
	}
	l.latest = &one
	return l
}

// since returns the looks from the time on.
func (l looks[T]) since(t time.Time) looks[T] {
	old := func(one *T) bool { return one != nil && (*one).time().Before(t) }
	if old(l.earlier) {
		l.earlier = nil
	}
	l.between = slices.DeleteFunc(slices.Clone(l.between), old)
	if old(l.latest) {
		l.latest = nil
	}
	return l
}

// next returns the least time of a look that is Apart from another one. ok is false without any look.
func (l looks[T]) next() (at time.Time, ok bool) {
	switch {
	case l.latest == nil:
		return time.Time{}, false
	case len(l.between) > 0:
		return (*l.between[0]).time().Add(Apart), true
	}
	return (*l.latest).time().Add(Apart), true
}

// edited returns the looks as edit returns each of them. edit returns a look that it does not change as it is.
func (l looks[T]) edited(edit func(*T) *T) looks[T] {
	l.between = slices.Clone(l.between)
	for i, one := range l.between {
		l.between[i] = edit(one)
	}
	if l.earlier != nil {
		l.earlier = edit(l.earlier)
	}
	if l.latest != nil {
		l.latest = edit(l.latest)
	}
	return l
}

// find returns the first of the interfaces that matches.
func find(all []Interface, matches func(Interface) bool) (Interface, bool) {
	i := slices.IndexFunc(all, matches)
	if i < 0 {
		return Interface{}, false
	}
	return all[i], true
}
