package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols that a Service may name.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the protocol as Kubernetes writes it, e.g. "TCP".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ID names a set of backends. It is unique across both IP families and never 0. All frontends of a service port
// with the same backends share one, so each backend is stored once. An ID keeps its meaning until Diff deletes the
// last frontend with it.
type ID uint32

// FrontendKey is a destination that clients connect to. The address is never an IPv4-mapped IPv6 address, so
// Addr.Is4 decides which map holds it.
type FrontendKey struct {
	Addr     netip.Addr
	Port     uint16
	Protocol Protocol
}

// String returns e.g. "10.96.0.10:53/UDP".
func (k FrontendKey) String() string {
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Protocol.String()
}

func compareKeys(a, b FrontendKey) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// Flags say how a frontend treats a connection.
type Flags uint8

const (
	// Affinity: a client keeps its backend for Frontend.Timeout after its last connection.
	Affinity Flags = 1 << iota
	// Refuse: the frontend has no backend. A connection fails at once with ECONNREFUSED.
	Refuse
	// Pass: leave the destination as it is; the node (kube-proxy) translates it. Such a frontend has no ID.
	Pass
)

// Frontend says how to translate a destination. Exactly one of these is true: Count > 0, Refuse, Pass.
type Frontend struct {
	// ID is the set of backends; 0 with Refuse and Pass.
	ID ID
	// Count is the number of backends, in the slots 0 to Count-1 of ID.
	Count uint32
	// Timeout is the duration of the affinity in seconds, 1 to 86400; 0 without Affinity.
	Timeout uint32
	Flags   Flags
}

// Slot is the place of one backend in its set.
type Slot struct {
	ID    ID
	Index uint32
}

// Member says that a backend belongs to a set. A program checks with one lookup whether a remembered backend is still
// good. Only sets with affinity and sets of UDP ports have members.
type Member struct {
	ID      ID
	Backend netip.AddrPort
}

// FrontendEntry is one entry of the map of frontends.
type FrontendEntry struct {
	FrontendKey
	Frontend
}

// String returns e.g. "10.96.0.10:53/UDP set 7 count 2 affinity 10800s".
func (e FrontendEntry) String() string {
	switch {
	case e.Flags&Pass != 0:
		return e.FrontendKey.String() + " pass"
	case e.Flags&Refuse != 0:
		return e.FrontendKey.String() + " refuse"
	case e.Flags&Affinity != 0:
		return fmt.Sprintf("%s set %d count %d affinity %ds", e.FrontendKey, e.ID, e.Count, e.Timeout)
	}
	return fmt.Sprintf("%s set %d count %d", e.FrontendKey, e.ID, e.Count)
}

// BackendEntry is one entry of the map of backends. The backend has the IP family of its frontends.
type BackendEntry struct {
	Slot
	Backend netip.AddrPort
}

// String returns e.g. "set 7 slot 0 10.6.0.21:53".
func (e BackendEntry) String() string {
	return fmt.Sprintf("set %d slot %d %s", e.ID, e.Index, e.Backend)
}

// MemberEntry is one entry of the map of members.
type MemberEntry struct {
	Member
	// Draining: the backend serves its present UDP flows and gets no new ones. It has no slot.
	Draining bool
}

// String returns e.g. "set 7 member 10.6.0.21:53 draining".
func (e MemberEntry) String() string {
	text := fmt.Sprintf("set %d member %s", e.ID, e.Backend)
	if e.Draining {
		text += " draining"
	}
	return text
}

// Diff changes the maps from one state to the next. Apply its parts in the order of the fields: then a frontend never
// counts a backend without a slot. A program that reads a Frontend just before the change may still ask for a slot
// that the change deletes; it then has to read the Frontend again.
type Diff struct {
	SetBackends     []BackendEntry
	SetMembers      []MemberEntry
	SetFrontends    []FrontendEntry
	DeleteFrontends []FrontendKey
	DeleteMembers   []Member
	DeleteBackends  []Slot
}

// Empty reports whether there is nothing to change.
func (d Diff) Empty() bool { return d.Len() == 0 }

// Len returns the number of map entries that the diff writes or deletes.
func (d Diff) Len() int {
	return len(d.SetBackends) + len(d.SetMembers) + len(d.SetFrontends) +
		len(d.DeleteFrontends) + len(d.DeleteMembers) + len(d.DeleteBackends)
}

// String returns one line per entry in the order of application, e.g.
//
//   - set 7 slot 1 10.6.0.22:53
//   - 10.96.0.10:53/UDP set 7 count 2
//   - 10.96.0.11:53/UDP
func (d Diff) String() string {
	var b strings.Builder
	lines(&b, "+ ", d.SetBackends)
	lines(&b, "+ ", d.SetMembers)
	lines(&b, "+ ", d.SetFrontends)
	lines(&b, "- ", d.DeleteFrontends)
	for _, m := range d.DeleteMembers {
		fmt.Fprintf(&b, "- %s\n", MemberEntry{Member: m})
	}
	for _, s := range d.DeleteBackends {
		fmt.Fprintf(&b, "- set %d slot %d\n", s.ID, s.Index)
	}
	return b.String()
}

func lines[T fmt.Stringer](b *strings.Builder, prefix string, entries []T) {
	for _, e := range entries {
		fmt.Fprintf(b, "%s%s\n", prefix, e)
	}
}
