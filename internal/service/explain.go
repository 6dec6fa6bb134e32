package service

import (
	"net/netip"
	"slices"
)

// Explained is a frontend of a service with its endpoints, for users.
type Explained struct {
	FrontendEntry
	Kind Kind
	// Pass is the reason of the flag Pass; empty without it.
	Pass string
	// Owner is the service whose entry the frontend has: another one if that has the better claim.
	Owner Name
	// Set has the endpoints of the frontend, nil with Pass. Frontends share it.
	Set *Judged
}

// Judged are the endpoints of a service port in one IP family.
type Judged struct {
	Port       Port
	IPv4       bool
	Local      bool // traffic policy Local
	Preference Preference
	Endpoints  []JudgedEndpoint
}

// JudgedEndpoint is an endpoint with its port and the verdict on it.
type JudgedEndpoint struct {
	At netip.AddrPort
	Endpoint
	Verdict Verdict
}

// Names returns the services in the table, sorted.
func (t *Table) Names() []Name {
	var names []Name
	for _, r := range t.sorted() {
		if r.service != nil {
			names = append(names, r.name)
		}
	}
	return names
}

// Explain returns the frontends of a service, and how their backends were chosen. It returns nil for a service that is
// not in the table.
func (t *Table) Explain(name Name) []Explained {
	r := t.services[name]
	if r == nil || r.service == nil {
		return nil
	}
	sets := map[setKey]*Judged{}
	var all []Explained
	frontends, _ := plan(r.service, r.slices, &t.node)
	for i, planned := range frontends {
		e := Explained{FrontendEntry: r.frontends[i].FrontendEntry, Kind: planned.kind, Pass: planned.pass, Owner: t.claims[planned.FrontendKey].owner.name}
		if planned.pass == "" {
			if sets[planned.set] == nil {
				sets[planned.set] = t.judge(r, planned.set)
			}
			e.Set = sets[planned.set]
		}
		all = append(all, e)
	}
	return all
}

func (t *Table) judge(r *record, key setKey) *Judged {
	at := slices.IndexFunc(r.service.Ports, func(p Port) bool { return p.Name == key.port && p.Protocol == key.protocol })
	judged := &Judged{Port: r.service.Ports[at], IPv4: key.is4, Local: key.local}
	found := candidates(r.slices, judged.Port, key.is4)
	verdicts, preference := choose(found, &t.node, key.local)
	judged.Preference = preference
	for i, c := range found {
		judged.Endpoints = append(judged.Endpoints, JudgedEndpoint{c.at, *c.Endpoint, verdicts[i]})
	}
	return judged
}
