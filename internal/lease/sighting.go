package lease

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// Sightings are the times at which a process first saw leases in their present state.
//
// The times in a lease come from the clock of the node that wrote it. Clocks differ, and NTP
// or an administrator sets them back and forth. So no decision compares a stored time with
// the present one. A process counts the duration of a state from its own first look, by its
// own monotonic clock, and after a restart it counts anew. This may be later than the end
// that the writer meant, but never earlier, and never without end.
type Sightings []sighting

type sighting struct {
	state uint64 // see stateOf
	at    time.Time
}

// Next returns the sightings after a look at the leases. Leases in the state of an earlier
// look keep their time; others are forgotten.
func (s Sightings) Next(leases []Lease, now time.Time) Sightings {
	return s.next(leases, func(*Lease) bool { return true }, now)
}

// next is Next for the leases for which keep returns true.
func (s Sightings) next(leases []Lease, keep func(*Lease) bool, now time.Time) Sightings {
	var next Sightings
	for i := range leases {
		l := &leases[i]
		if !keep(l) {
			continue
		}
		if next == nil {
			next = make(Sightings, 0, len(leases)-i)
		}
		seen := sighting{stateOf(l), now}
		if at, ok := s.at(seen.state); ok {
			seen.at = at
		}
		next = append(next, seen)
	}
	return next
}

// Age returns for how long the lease has been known in its present state; 0 if the last
// look did not have it.
func (s Sightings) Age(l Lease, now time.Time) time.Duration {
	if len(s) == 0 {
		return 0
	}
	if at, ok := s.at(stateOf(&l)); ok {
		return now.Sub(at)
	}
	return 0
}

func (s Sightings) at(state uint64) (time.Time, bool) {
	for _, seen := range s {
		if seen.state == state {
			return seen.at, true
		}
	}
	return time.Time{}, false
}

var stateSeed = maphash.MakeSeed()

// stateOf returns a number that differs for each state of each lease. It takes a tenth of
// the memory of the lease.
func stateOf(l *Lease) uint64 {
	return maphash.Comparable(stateSeed, struct {
		addr         netip.Addr
		state        State
		at           Attachment
		uid          string
		former       bool
		since, until int64
	}{l.Addr, l.State, l.Attachment, l.PodUID, l.OfFormer(), l.Since.Unix(), l.Until.Unix()})
}

// MaxQuarantine is the longest quarantine. A lease with a later end, e.g. by hand, is free
// after this time.
const MaxQuarantine = time.Hour

// quarantine returns the duration of a quarantine. Both times come from one clock.
func (l Lease) quarantine() time.Duration {
	return min(max(l.Until.Sub(l.Since), 0), MaxQuarantine)
}

// expires returns after how much time in its state a lease is free, and false if it does
// not expire.
func (l Lease) expires(reuseAfter time.Duration) (time.Duration, bool) {
	switch l.State {
	case Released:
		return reuseAfter, true
	case Quarantined:
		return l.quarantine(), true
	}
	return 0, false
}
