package cloud

import (
	"slices"
	"time"
)

// Listing is what a provider said about the interfaces that the controller has created.
type Listing struct {
	At         time.Time
	Interfaces []Interface
}

func (l Listing) time() time.Time { return l.At }

// Listings holds the last listing, and the newest one at least Apart before it. The zero value holds none.
type Listings struct{ looks[Listing] }

// Add returns the listings with one more.
func (l Listings) Add(one Listing) Listings { return Listings{l.add(one)} }

// At returns the time of the last listing, the zero time for none.
func (l Listings) At() time.Time {
	if l.latest == nil {
		return time.Time{}
	}
	return l.latest.At
}

// Since returns the listings without those from before the time.
func (l Listings) Since(t time.Time) Listings { return Listings{l.since(t)} }

// Next returns when to list, so that there are two listings at least Apart apart. The zero time is now. ok is false if there are two.
func (l Listings) Next() (at time.Time, ok bool) {
	at, _ = l.next()
	return at, l.earlier == nil
}

// Interface returns an interface as the last listing shows it.
func (l Listings) Interface(id string) (Interface, bool) { return l.latest.named(id) }

// With returns the listings as if they had shown this interface: the cloud has confirmed the change.
func (l Listings) With(i Interface) Listings {
	return l.changed(func(is []Interface) []Interface { return append(without(is, i.ID), i) })
}

// Without returns the listings as if they had not shown the interface.
func (l Listings) Without(id string) Listings {
	return l.changed(func(is []Interface) []Interface { return without(is, id) })
}

func without(is []Interface, id string) []Interface {
	return slices.DeleteFunc(slices.Clone(is), func(i Interface) bool { return i.ID == id })
}

// changed returns the listings with other interfaces.
func (l Listings) changed(change func([]Interface) []Interface) Listings {
	return Listings{l.edited(func(one *Listing) *Listing { return &Listing{one.At, change(one.Interfaces)} })}
}

func (l *Listing) named(id string) (Interface, bool) {
	if l == nil {
		return Interface{}, false
	}
	return find(l.Interfaces, func(i Interface) bool { return i.ID == id })
}
