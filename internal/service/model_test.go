package service

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is a small cluster, for the model.
type world struct {
	services map[Name]*Service
	slices   map[Name]*Slice
	node     Node
}

// answer is what a connection to a frontend gets: "pass", "refuse", or backends, e.g.
// "10.6.0.1:80 10.6.0.2:80 sticky 60", for UDP with those that keep flows, e.g. "10.6.0.1:53 draining 10.6.0.2:53".
type answer string

// answers is the model: for each frontend, it reads the rules again from the start. It shares no code with Table.
func (w world) answers() map[FrontendKey]answer {
	type claimant struct {
		rank    int
		created time.Time
		name    string
		answer  answer
	}
	best := map[FrontendKey]claimant{}
	for _, s := range w.services {
		for _, p := range s.Ports {
			offer := func(rank int, addr netip.Addr, port uint16, policyLocal, limited bool) {
				if port == 0 || !slices.ContainsFunc(s.ClusterIPs, func(c netip.Addr) bool { return c.Is4() == addr.Is4() }) {
					return
				}
				c := claimant{rank, s.Created, s.Name.String(), w.answer(s, p, addr.Is4(), policyLocal)}
				if limited || p.Protocol == SCTP {
					c.answer = "pass"
				}
				key := FrontendKey{addr, port, p.Protocol}
				old, taken := best[key]
				older := c.created.Before(old.created) || c.created.Equal(old.created) && c.name < old.name
				if !taken || c.name == old.name && c.rank < old.rank || c.name != old.name && (c.rank < old.rank || c.rank == old.rank && older) {
					best[key] = c
				}
			}
			for _, a := range s.ClusterIPs {
				offer(1, a, p.Port, s.InternalLocal, false)
			}
			for _, a := range w.node.Addrs {
				offer(2, a, p.NodePort, false, false)
			}
			for _, a := range s.LoadBalancerIPs {
				limited, open := false, false
				for _, r := range s.SourceRanges {
					limited = limited || r.Addr().Is4() == a.Is4()
					open = open || r.Addr().Is4() == a.Is4() && r.Bits() == 0
				}
				offer(3, a, p.Port, false, limited && !open)
			}
			for _, a := range s.ExternalIPs {
				offer(4, a, p.Port, false, false)
			}
		}
	}
	out := map[FrontendKey]answer{}
	for k, c := range best {
		out[k] = c.answer
	}
	return out
}

func (w world) answer(s *Service, p Port, is4, policyLocal bool) answer {
	// The best state of each address.
	state := map[netip.AddrPort]Endpoint{}
	better := func(a, b Endpoint) bool {
		if a.Ready != b.Ready {
			return a.Ready
		}
		return (a.Serving && a.Terminating) && !(b.Serving && b.Terminating)
	}
	for _, name := range slices.SortedFunc(maps.Keys(w.slices), Name.compare) {
		sl := w.slices[name]
		if sl.Service != s.Name.Name || sl.Name.Namespace != s.Name.Namespace {
			continue
		}
		for _, sp := range sl.Ports {
			if sp.Name != p.Name || sp.Protocol != p.Protocol {
				continue
			}
			for _, e := range sl.Endpoints {
				at := netip.AddrPortFrom(e.Addr, sp.Port)
				if old, ok := state[at]; e.Addr.Is4() == is4 && (!ok || better(e, old)) {
					state[at] = e
				}
			}
		}
	}
	pick := func(wanted func(Endpoint) bool) (found []string) {
		for at, e := range state {
			if wanted(e) && (!policyLocal || e.Node == w.node.Name) {
				found = append(found, at.String())
			}
		}
		return found
	}
	ready := func(e Endpoint) bool { return e.Ready }
	forNode := func(e Endpoint) bool { return e.Ready && slices.Contains(e.nodes(), w.node.Name) }
	forZone := func(e Endpoint) bool { return e.Ready && slices.Contains(e.zones(), w.node.Zone) }
	unhintedNode := pick(func(e Endpoint) bool { return e.Ready && len(e.nodes()) == 0 })
	unhintedZone := pick(func(e Endpoint) bool { return e.Ready && len(e.zones()) == 0 })
	found := pick(ready)
	if !policyLocal {
		if byNode := pick(forNode); len(unhintedNode) == 0 && len(byNode) > 0 {
			found = byNode
		} else if byZone := pick(forZone); len(unhintedZone) == 0 && len(byZone) > 0 {
			found = byZone
		}
	}
	if len(found) == 0 {
		found = pick(func(e Endpoint) bool { return e.Serving && e.Terminating })
	}
	if len(found) == 0 {
		return "refuse"
	}
	chosen := slices.Sorted(slices.Values(found))
	if s.Affinity > 0 {
		found = append(chosen, "sticky", fmt.Sprint(s.Affinity))
	} else {
		found = chosen
	}
	if p.Protocol == UDP {
		// Flows may stay at each serving endpoint, whatever the policy.
		policyLocal = false
		serving := pick(func(e Endpoint) bool { return e.Ready || e.Serving })
		serving = slices.DeleteFunc(serving, func(at string) bool { return slices.Contains(chosen, at) })
		slices.Sort(serving)
		found = append(append(slices.Clone(found), "draining"), serving...)
	}
	return answer(strings.Join(found, " "))
}

// answers reads the maps as a program does.
func (c contents) answers() map[FrontendKey]answer {
	out := map[FrontendKey]answer{}
	for k, f := range c.frontends {
		switch {
		case f.Flags&Pass != 0:
			out[k] = "pass"
		case f.Flags&Refuse != 0:
			out[k] = "refuse"
		default:
			var found []string
			for i := range f.Count {
				found = append(found, c.backends[Slot{f.ID, i}].String())
			}
			slices.Sort(found)
			if f.Flags&Affinity != 0 {
				found = append(found, "sticky", fmt.Sprint(f.Timeout))
			}
			if k.Protocol == UDP {
				found = append(found, "draining")
				for _, m := range slices.SortedFunc(maps.Keys(c.members), func(a, b Member) int { return strings.Compare(a.Backend.String(), b.Backend.String()) }) {
					if m.ID == f.ID && c.members[m] {
						found = append(found, m.Backend.String())
					}
				}
			}
			out[k] = answer(strings.Join(found, " "))
		}
	}
	return out
}

var (
	v4 = addrsOf("10.96.0.1", "10.96.0.2", "172.18.0.2", "203.0.113.7")
	v6 = addrsOf("fd00:96::1", "fd00:96::2", "fc00:18::2", "2001:db8::7")
)

func addrsOf(texts ...string) (addrs []netip.Addr) {
	for _, text := range texts {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

func names(prefix string) *rapid.Generator[Name] {
	return rapid.Custom(func(t *rapid.T) Name {
		// Few names, so that slices find their services.
		return Name{rapid.SampledFrom([]string{"x", "x", "x", "y"}).Draw(t, "namespace"), prefix + rapid.SampledFrom([]string{"1", "2", "2"}).Draw(t, "name")}
	})
}

var someAddrs = rapid.SliceOfNDistinct(rapid.SampledFrom(slices.Concat(v4, v6)), 0, 3, rapid.ID[netip.Addr])

func drawService(t *rapid.T) *Service {
	s := &Service{
		Name:            names("s").Draw(t, "service"),
		Created:         time.Unix(int64(rapid.IntRange(0, 2).Draw(t, "created")), 0),
		ExternalIPs:     someAddrs.Draw(t, "external"),
		LoadBalancerIPs: someAddrs.Draw(t, "load balancers"),
		Affinity:        rapid.SampledFrom([]uint32{0, 0, 60}).Draw(t, "affinity"),
		InternalLocal:   rapid.Bool().Draw(t, "internal local"),
	}
	if rapid.IntRange(0, 3).Draw(t, "IPv4") > 0 {
		s.ClusterIPs = append(s.ClusterIPs, rapid.SampledFrom(v4).Draw(t, "cluster IP"))
	}
	if rapid.Bool().Draw(t, "IPv6") {
		s.ClusterIPs = append(s.ClusterIPs, rapid.SampledFrom(v6).Draw(t, "cluster IPv6"))
	}
	for _, r := range rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.0/8", "0.0.0.0/0", "fd00::/8"}), 0, 2).Draw(t, "ranges") {
		s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(r))
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 0, 2, rapid.ID[string]).Draw(t, "ports") {
		s.Ports = append(s.Ports, Port{
			name, rapid.SampledFrom([]Protocol{TCP, TCP, UDP, UDP, SCTP}).Draw(t, "protocol"),
			// Ports of one service differ, as the API server wants it.
			uint16(10*len(s.Ports) + rapid.IntRange(1, 2).Draw(t, "port")),
			uint16(rapid.SampledFrom([]int{0, 10*len(s.Ports) + 1, 10*len(s.Ports) + 2}).Draw(t, "node port")),
		})
	}
	return s
}

func drawSlice(t *rapid.T) *Slice {
	s := &Slice{Name: names("e").Draw(t, "slice"), Service: rapid.SampledFrom([]string{"s1", "s2", "s2"}).Draw(t, "service")}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 0, 2, rapid.ID[string]).Draw(t, "ports") {
		s.Ports = append(s.Ports, SlicePort{name, rapid.SampledFrom([]Protocol{TCP, UDP}).Draw(t, "protocol"), uint16(rapid.IntRange(1, 2).Draw(t, "port"))})
	}
	hints := func(all ...string) *rapid.Generator[[]string] {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 2, rapid.ID[string])
	}
	endpoint := rapid.Custom(func(t *rapid.T) Endpoint {
		return Endpoint{
			Addr:  rapid.SampledFrom(addrsOf("10.6.0.1", "10.6.0.2", "10.6.0.3", "fd00:6::1", "fd00:6::2")).Draw(t, "address"),
			Node:  rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node"),
			Hints: &Hints{hints("a", "b").Draw(t, "zones"), hints("n1", "n2").Draw(t, "nodes")},
			Ready: rapid.Bool().Draw(t, "ready"), Serving: rapid.Bool().Draw(t, "serving"), Terminating: rapid.Bool().Draw(t, "terminating"),
		}
	})
	// One slice has an address once: the order of two would decide.
	s.Endpoints = rapid.SliceOfNDistinct(endpoint, 0, 4, func(e Endpoint) netip.Addr { return e.Addr }).Draw(t, "endpoints")
	return s
}

// checkTable plays random changes on a Table and compares the maps with the model after each.
func checkTable(t *rapid.T) {
	w := world{map[Name]*Service{}, map[Name]*Slice{}, Node{Name: "n1"}}
	table, maps := NewTable(w.node, nil), newContents()
	t.Repeat(map[string]func(*rapid.T){
		"set service": func(t *rapid.T) {
			s := drawService(t)
			w.services[s.Name] = s
			applyChecked(t, maps, table.SetService(s))
		},
		"delete service": func(t *rapid.T) {
			name := names("s").Draw(t, "service")
			delete(w.services, name)
			applyChecked(t, maps, table.DeleteService(name))
		},
		"set slice": func(t *rapid.T) {
			s := drawSlice(t)
			w.slices[s.Name] = s
			applyChecked(t, maps, table.SetSlice(s))
		},
		"delete slice": func(t *rapid.T) {
			name := names("e").Draw(t, "slice")
			delete(w.slices, name)
			applyChecked(t, maps, table.DeleteSlice(name))
		},
		"set node": func(t *rapid.T) {
			w.node.Zone = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
			w.node.Addrs = someAddrs.Draw(t, "addresses")
			applyChecked(t, maps, table.SetNode(w.node))
		},
		"restart": func(t *rapid.T) {
			table = restart(w, maps)
			maps.replace(table.All())
		},
		"": func(t *rapid.T) { checkState(t, w, table, maps) },
	})
}

func applyChecked(t *rapid.T, c contents, d Diff) {
	seen := map[any]bool{}
	once := func(key any) {
		if seen[key] {
			t.Fatalf("%v is twice in\n%s", key, d)
		}
		seen[key] = true
	}
	for _, e := range d.SetBackends {
		once(e.Slot)
	}
	for _, s := range d.DeleteBackends {
		once(s)
	}
	for _, e := range d.SetMembers {
		once(e.Member)
	}
	for _, m := range d.DeleteMembers {
		once(m)
	}
	for _, e := range d.SetFrontends {
		once(e.FrontendKey)
		if c.frontends[e.FrontendKey] == e.Frontend {
			t.Fatalf("%v was there before", e)
		}
	}
	for _, k := range d.DeleteFrontends {
		once(k)
	}
	c.apply(d, func() {
		if fault := c.fault(); fault != "" {
			t.Fatalf("%s, amid\n%s", fault, d)
		}
	})
}

func checkState(t *rapid.T, w world, table *Table, c contents) {
	if diff := cmp.Diff(w.answers(), c.answers()); diff != "" {
		t.Fatalf("the model (-) and the maps (+) differ:\n%s", diff)
	}
	if garbage := c.garbage(); garbage != "" {
		t.Fatalf("left over: %s", garbage)
	}
	checkMembers(t, c)
	all := newContents()
	all.apply(table.All(), func() {})
	if !maps.Equal(all.frontends, c.frontends) || !maps.Equal(all.backends, c.backends) || !maps.Equal(all.members, c.members) {
		t.Fatalf("All gives\n%swhile the maps hold\n%+v", table.All(), c)
	}
	used := 0
	for _, r := range table.services {
		used += len(r.sets)
		if r.service == nil && len(r.slices) == 0 {
			t.Fatalf("the empty record %s is left", r.name)
		}
	}
	if len(table.ids) != used || len(table.claims) != len(c.frontends) {
		t.Fatalf("%d IDs for %d sets, %d claims for %d frontends", len(table.ids), used, len(table.claims), len(c.frontends))
	}
}

// restart returns the table of a new process, with the IDs in the maps of the former one.
func restart(w world, c contents) *Table {
	known := map[FrontendKey]ID{}
	for k, f := range c.frontends {
		known[k] = f.ID
	}
	table := NewTable(w.node, known)
	for _, s := range w.slices {
		table.SetSlice(s)
	}
	for _, s := range w.services {
		table.SetService(s)
	}
	return table
}

// checkMembers compares the members that are not draining with the slots.
func checkMembers(t *rapid.T, c contents) {
	want := map[Member]bool{}
	for k, f := range c.frontends {
		for i := range f.Count {
			if f.Flags&Affinity != 0 || k.Protocol == UDP {
				want[Member{f.ID, c.backends[Slot{f.ID, i}]}] = true
			}
		}
	}
	// A frontend that another service owns has a set, too. Its ID is in no frontend.
	used := map[ID]bool{}
	for _, f := range c.frontends {
		used[f.ID] = true
	}
	for m, draining := range c.members {
		if used[m.ID] && draining == want[m] {
			t.Fatalf("member %v: draining is %t", m, draining)
		}
		delete(want, m)
	}
	if len(want) > 0 {
		t.Fatalf("no member for %v", want)
	}
}

func TestTableFollowsModel(t *testing.T) { rapid.Check(t, checkTable) }

func FuzzTable(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkTable)) }
