package netplan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Direction is a direction of traffic, seen from the pod.
type Direction string

// The directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Rates limit an interface of a pod, in bits per second. 0 means no limit.
type Rates struct {
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

func (r Rates) of(d Direction) uint64 {
	if d == Ingress {
		return r.Ingress
	}
	return r.Egress
}

// kindIFB is the kernel's link type for shaping in both directions, the intermediate
// functional block. It transmits a packet redirected to it at its rate, and the packet
// then continues on its way.
const kindIFB = "ifb"

// Shaper limits the rate of link Dev, an ifb: a token bucket filter (tc-tbf(8)) with a
// short queue.
type Shaper struct {
	Dev  string
	Rate uint64 // bits per second, a multiple of 8
	// Fixed means that the container runtime set the rate in an ADD, so that the pod's
	// annotations neither change nor remove it unless they name another rate.
	Fixed bool
}

// The token bucket holds the bytes of burstTime, because the kernel may serve the queue
// late by about a millisecond. The queue holds the bytes of queueTime: a full queue
// delays a packet by so much. At low rates, both hold a few frames instead.
const (
	burstTime   = 5 * time.Millisecond
	queueTime   = 50 * time.Millisecond
	burstFrames = 2
	queueFrames = 10
	// maxBurst and maxQueue are limits in bytes. maxQueue bounds the kernel's memory.
	maxBurst = 64 << 20
	maxQueue = 16 << 20
	// defaultMTU is the kernel's for Ethernet links.
	defaultMTU = 1500
	// frameOverhead is the length of an Ethernet header with a VLAN tag.
	frameOverhead = 18
)

// Burst returns the size of the token bucket in bytes, for a link with this MTU in bytes.
func (s Shaper) Burst(mtu int) int { return s.bytes(burstTime, burstFrames, mtu, maxBurst) }

// Queue returns the length of the queue in bytes, for a link with this MTU in bytes.
func (s Shaper) Queue(mtu int) int { return s.bytes(queueTime, queueFrames, mtu, maxQueue) }

func (s Shaper) bytes(during time.Duration, frames, mtu, most int) int {
	bytes := float64(s.Rate) / 8 * during.Seconds()
	return int(min(max(bytes, float64(frames*(mtu+frameOverhead))), float64(most)))
}

// Key implements Item.
func (s Shaper) Key() string { return "shaper " + s.Dev }
func (s Shaper) phase() int  { return phaseShaper }

func (s Shaper) String() string {
	text := fmt.Sprintf("shaper %s rate %d", s.Dev, s.Rate)
	if s.Fixed {
		text += " fixed"
	}
	return text
}

// SatisfiedBy implements Item.
func (s Shaper) SatisfiedBy(have Item) bool { return Item(s) == have }

// Redirect sends the packets of link Dev in one direction through link To, an ifb.
type Redirect struct {
	Dev       string
	Direction Direction
	To        string
}

// Key implements Item.
func (r Redirect) Key() string    { return "redirect " + r.Dev + " " + string(r.Direction) }
func (r Redirect) String() string { return r.Key() + " to " + r.To }
func (r Redirect) phase() int     { return phaseRedirect }

// SatisfiedBy implements Item.
func (r Redirect) SatisfiedBy(have Item) bool { return Item(r) == have }

func (p *parser) shaper() Shaper {
	s := Shaper{Dev: p.next()}
	s.Rate = parsed(p, p.named("rate"), parseUint)
	if len(p.words) > 0 && p.words[0] == "fixed" {
		p.next()
		s.Fixed = true
	}
	return s
}

func (p *parser) direction() Direction {
	switch d := Direction(p.next()); d {
	case Ingress, Egress:
		return d
	default:
		p.fail(fmt.Errorf("unknown direction %q: want ingress or egress", d))
		return ""
	}
}

// shaperLink returns the name of the ifb for an interface and a direction, e.g.
// "in-eth0" or "out-eth0". A long name of an interface is replaced by a digest.
func shaperLink(dev string, d Direction) string {
	prefix := "in-"
	if d == Egress {
		prefix = "out-"
	}
	if len(prefix+dev) > maxInterfaceName {
		sum := sha256.Sum256([]byte(dev))
		dev = hex.EncodeToString(sum[:5])
	}
	return prefix + dev
}

// IsShaperLink reports whether a link is named and made like that of a Shaper.
func IsShaperLink(l Link) bool {
	return l.Kind == kindIFB && (strings.HasPrefix(l.Name, "in-") || strings.HasPrefix(l.Name, "out-"))
}

// Limit is the bandwidth of one interface of a pod.
type Limit struct {
	Dev string
	// WithVeth means that the packets on PodVeth count, too: it carries the packets of
	// the pod's first interface to and from the node.
	WithVeth bool
	Rates    Rates // of the pod's annotations
	Fixed    Rates // of the container runtime, for the directions without a rate in Rates
}

// Shape plans the limits of one interface of a pod, given the links of its namespace.
// Both directions pass an ifb, so that several links share one rate.
func (l Limit) Shape(links State) State {
	mtu, found := defaultMTU, false
	for _, it := range links {
		if link, ok := it.(Link); ok && (link.Name == l.Dev || l.WithVeth && link.Name == PodVeth) {
			mtu, found = max(mtu, link.MTU), found || link.Name == l.Dev
		}
	}
	var st State
	for _, d := range []Direction{Ingress, Egress} {
		rate, fixed := l.Rates.of(d), false
		if rate == 0 {
			rate, fixed = l.Fixed.of(d), true
		}
		if rate == 0 || !found {
			continue
		}
		ifb := shaperLink(l.Dev, d)
		st = append(st,
			Link{Name: ifb, Kind: kindIFB, MTU: mtu},
			Up{Dev: ifb},
			Shaper{Dev: ifb, Rate: (rate + 7) / 8 * 8, Fixed: fixed},
			Redirect{Dev: l.Dev, Direction: d, To: ifb})
		if l.WithVeth {
			st = append(st, Redirect{Dev: PodVeth, Direction: d, To: ifb})
		}
	}
	return st
}

// Removable reports whether an unwanted item is of an earlier Shape of the interface.
func (l Limit) Removable(it Item) bool {
	own := func(name string) bool { return name == shaperLink(l.Dev, Ingress) || name == shaperLink(l.Dev, Egress) }
	switch it := it.(type) {
	case Link:
		return it.Kind == kindIFB && own(it.Name)
	case Shaper:
		return own(it.Dev)
	case Redirect:
		return own(it.To)
	}
	return false
}

// FollowRates returns the changes that bring the limits of a running pod into agreement
// with its annotations. st is the state of its namespace, rates are by interface, and
// first is the pod's first interface. Without a coordinator, a pod stays as it is.
func FollowRates(st State, first string, rates map[string]Rates) Changes {
	if !slices.ContainsFunc(st, arranged) {
		return nil
	}
	fixed := map[string]bool{}
	for _, it := range st {
		if s, ok := it.(Shaper); ok && s.Fixed {
			fixed[s.Dev] = true
		}
	}
	veth := slices.ContainsFunc(st, func(it Item) bool { return it.Key() == Link{Name: PodVeth}.Key() })
	var out Changes
	for _, it := range st {
		link, ok := it.(Link)
		if !ok || link.Name == "lo" || link.Name == PodVeth || IsShaperLink(link) {
			continue
		}
		l := Limit{Dev: link.Name, WithVeth: veth && link.Name == first, Rates: rates[link.Name]}
		keeps := func(d Direction, name string) bool {
			return name == shaperLink(l.Dev, d) && fixed[name] && l.Rates.of(d) == 0
		}
		out = append(out, Diff(st, l.Shape(st), func(it Item) bool {
			name := shaperLinkOf(it)
			return l.Removable(it) && !keeps(Ingress, name) && !keeps(Egress, name)
		})...)
	}
	return out
}

// arranged reports whether an item was made by a coordinator.
func arranged(it Item) bool {
	l, ok := it.(Link)
	return ok && l.Name == PodVeth || Owned(it)
}

// shaperLinkOf returns the ifb of an item of a Shape.
func shaperLinkOf(it Item) string {
	switch it := it.(type) {
	case Link:
		return it.Name
	case Shaper:
		return it.Dev
	case Redirect:
		return it.To
	}
	return ""
}

func parseUint(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
