package flows

import (
	"net/netip"
	"time"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/service"
)

// looksHeld is the number of looks for which an event of an incoming packet waits for the verdict of the packet filters.
const looksHeld = 2

// tuple identifies a connection at an interface.
type tuple struct {
	at                  place
	protocol            service.Protocol
	source, destination netip.AddrPort
}

// place is an interface of a pod.
type place struct{ uid, dev string }

func tupleOf(e *flow.Event) tuple {
	return tuple{place{e.UID, e.Interface}, e.Protocol, e.Source, e.Destination}
}

// verdicts tells which events of incoming packets are true: those of packets that no filter has dropped. A filter copies the
// packets that it drops, up to a limit. An event is in doubt while the copies of its interface are near the limit.
type verdicts struct {
	// held are the events that wait, and denials the dropped connections, by looks: the present one first.
	held    [looksHeld][]held
	denials [looksHeld + 1]map[tuple]bool
	// limits are those of interfaces with copies of late.
	limits map[place]*limit
}

// held is an event that waits, and where its packet was seen.
type held struct {
	flow.Event
	in *space
}

// limit follows the token bucket of a filter (nft(8), "limit rate"), as if an interface had one.
type limit struct {
	tokens float64
	last   time.Time
	// doubtful is the number of looks for which packets may have no copy.
	doubtful int
}

// hold has an event wait.
func (v *verdicts) hold(e flow.Event, in *space) { v.held[0] = append(v.held[0], held{e, in}) }

// due returns the namespaces whose dropped packets must be known before the next release.
func (v *verdicts) due() map[*space]bool {
	spaces := map[*space]bool{}
	for _, h := range v.held[looksHeld-1] {
		spaces[h.in] = true
	}
	return spaces
}

// look begins another look with the packets that were dropped since the last one.
func (v *verdicts) look(denied []flow.Event) {
	copy(v.denials[1:], v.denials[:])
	v.denials[0] = make(map[tuple]bool, len(denied))
	for at, l := range v.limits {
		if l.doubtful--; l.doubtful < 0 && time.Since(l.last) > time.Second*flow.LogBurst/flow.LogRate {
			delete(v.limits, at)
		}
	}
	for i := range denied {
		t := tupleOf(&denied[i])
		v.denials[0][t] = true
		l := v.limits[t.at]
		if l == nil {
			l = &limit{tokens: flow.LogBurst, last: denied[i].Time}
			if v.limits == nil {
				v.limits = map[place]*limit{}
			}
			v.limits[t.at] = l
		}
		l.tokens = min(l.tokens+denied[i].Time.Sub(l.last).Seconds()*flow.LogRate, flow.LogBurst) - 1
		l.last = denied[i].Time
		if l.tokens < flow.LogBurst/4 {
			l.doubtful = len(v.denials)
		}
	}
}

// released calls to with the events that waited long enough and are true. It returns the number of those in doubt.
func (v *verdicts) released(to func(flow.Event)) (doubtful uint64) {
	oldest := v.held[looksHeld-1]
	for i := range oldest {
		e := &oldest[i].Event
		t := tupleOf(e)
		switch l := v.limits[t.at]; {
		case v.denied(t):
		case l != nil && l.doubtful > 0:
			doubtful++
		default:
			to(*e)
		}
	}
	copy(v.held[1:], v.held[:])
	v.held[0] = oldest[:0]
	return doubtful
}

func (v *verdicts) denied(t tuple) bool {
	for _, denials := range v.denials {
		if denials[t] {
			return true
		}
	}
	return false
}
