package service

import (
	"cmp"
	"net/netip"
	"slices"
)

// Verdict says whether a connection may use an endpoint, or why not.
type Verdict uint8

// The verdicts.
const (
	// Chosen: the endpoint gets connections.
	Chosen Verdict = iota
	// NotReady: neither ready nor serving while it terminates.
	NotReady
	// Terminating: it serves until it ends, and others are ready (KEP-1669).
	Terminating
	// OtherNode: the traffic policy Local excludes other nodes (KEP-2086).
	OtherNode
	// NotForNode: its hints name other nodes, and those of another endpoint this one (KEP-3015).
	NotForNode
	// NotForZone: its hints name other zones, and those of another endpoint this one (KEP-2433).
	NotForZone
)

// String returns the verdict for users, e.g. "not ready".
func (v Verdict) String() string {
	return [...]string{
		"chosen", "not ready", "terminating, and others are ready", "on another node, and the traffic policy is Local",
		"its hints name other nodes", "its hints name other zones",
	}[v]
}

// candidate is an endpoint with the port of one service port.
type candidate struct {
	at netip.AddrPort
	*Endpoint
}

// usefulness orders endpoints with one address: a ready one, then one that serves until its end, then the rest.
func (e *Endpoint) usefulness() int {
	switch {
	case e.Ready:
		return 2
	case e.Serving && e.Terminating:
		return 1
	}
	return 0
}

// candidates returns the endpoints of one IP family that have the port, sorted by address. An address may be in two
// slices for a while, or belong to an ended pod and to its successor. The more useful
// endpoint counts, or else that of the first slice.
func candidates(all []*Slice, port Port, is4 bool) []candidate {
	var found []candidate
	for _, slice := range all {
		at := slices.IndexFunc(slice.Ports, func(p SlicePort) bool { return p.Name == port.Name && p.Protocol == port.Protocol })
		if at < 0 {
			continue
		}
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Addr.Is4() == is4 {
				found = append(found, candidate{netip.AddrPortFrom(e.Addr, slice.Ports[at].Port), e})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(b.usefulness(), a.usefulness()))
	})
	return slices.CompactFunc(found, func(a, b candidate) bool { return a.at == b.at })
}

// Preference is the topology that hints select.
type Preference uint8

// The preferences.
const (
	// NoPreference: every ready endpoint is as good as another.
	NoPreference Preference = iota
	// SameNode: endpoints whose hints name this node.
	SameNode
	// SameZone: endpoints whose hints name the zone of this node.
	SameZone
)

// String returns the preference for users.
func (p Preference) String() string { return [...]string{"none", "same node", "same zone"}[p] }

// preference reads the hints of the ready endpoints. The hints count only if each of them has one, and if one of
// them is for this node (KEP-3015), or else for this zone (KEP-2433). KEP-4444 computes the hints of
// trafficDistribution in the control plane, so the field itself does not matter here.
func preference(all []candidate, node *Node) Preference {
	nodeHints, zoneHints, forNode, forZone := true, true, false, false
	for _, c := range all {
		if !c.Ready {
			continue
		}
		nodeHints = nodeHints && len(c.nodes()) > 0
		zoneHints = zoneHints && len(c.zones()) > 0
		forNode = forNode || slices.Contains(c.nodes(), node.Name)
		forZone = forZone || slices.Contains(c.zones(), node.Zone)
	}
	switch {
	case nodeHints && forNode:
		return SameNode
	case zoneHints && forZone:
		return SameZone
	}
	return NoPreference
}

// choose returns the verdict on each candidate, for clients on the node.
//
// A policy Local knows the endpoints of this node only, and no hints. Ready endpoints get the connections. Without
// one, those that serve until their end do, and hints do not count (KEP-1669).
func choose(all []candidate, node *Node, local bool) ([]Verdict, Preference) {
	verdicts := make([]Verdict, len(all))
	prefer := NoPreference
	if !local {
		prefer = preference(all, node)
	}
	ready := false
	for _, c := range all {
		if !local || c.Node == node.Name {
			ready = ready || c.Ready
		}
	}
	for i, c := range all {
		switch {
		case local && c.Node != node.Name:
			verdicts[i] = OtherNode
		case c.usefulness() == 0:
			verdicts[i] = NotReady
		case ready && !c.Ready:
			verdicts[i] = Terminating
		case ready && prefer == SameNode && !slices.Contains(c.nodes(), node.Name):
			verdicts[i] = NotForNode
		case ready && prefer == SameZone && !slices.Contains(c.zones(), node.Zone):
			verdicts[i] = NotForZone
		}
	}
	return verdicts, prefer
}
