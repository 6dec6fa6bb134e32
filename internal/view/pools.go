package view

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Pool is one pool with its counts.
type Pool struct {
	Name string `json:"name"`
	// State is Ready, Disabled, Terminating, Invalid or Foreign (pods of another Spiderpool
	// release have addresses of the pool).
	State   string       `json:"state"`
	Problem string       `json:"problem,omitempty"` // of the states Invalid and Foreign
	Family  inet.Family  `json:"ipVersion"`
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Default bool         `json:"default"`

	// Total is the number of addresses for pods. Free is the part of it without a holder.
	Total int64 `json:"total"`
	Free  int64 `json:"free"`
	// InUse, Retained, Quarantined and Withheld also count leases of addresses that the pool has lost.
	InUse       int64 `json:"inUse"`
	Retained    int64 `json:"retained"`
	Quarantined int64 `json:"quarantined"`
	Withheld    int64 `json:"withheld"`
	// Former counts addresses that a former sandbox may still use.
	Former int64 `json:"former"`

	// For are the restrictions of the pool, e.g. "namespaces shop, blog"; none means every pod.
	For []string `json:"for,omitempty"`
}

// Pools returns all pools, sorted by name.
func (s *State) Pools() []Pool {
	pools := []Pool{}
	for _, name := range s.pools.Names() {
		p, _ := s.pools.Get(name)
		pools = append(pools, s.pool(p))
	}
	return pools
}

func (s *State) pool(p *pool.Pool) Pool {
	u := s.index.Usage(p.Name)
	out := Pool{
		Name: p.Name, State: "Ready", Family: p.Family, Subnet: p.Subnet, Gateway: p.Gateway, Default: p.Default,
		Total: u.Total, Free: u.Free, InUse: u.InUse, Retained: u.Retained, Quarantined: u.Quarantined, Withheld: u.Withheld, Former: u.Former, For: restrictions(p),
	}
	switch {
	case p.Invalid != "":
		out.State, out.Problem = "Invalid", p.Invalid
	case p.Terminating:
		out.State = "Terminating"
	case p.Foreign != "":
		out.State, out.Problem = "Foreign", "pods of another Spiderpool release have "+p.Foreign
	case p.Disabled:
		out.State = "Disabled"
	}
	return out
}

func restrictions(p *pool.Pool) []string {
	var all []string
	add := func(what string, names []string, selector *pool.Selector) {
		if len(names) > 0 {
			all = append(all, what+" "+strings.Join(names, ", "))
		} else if selector != nil {
			all = append(all, what+" with "+labelText(selector))
		}
	}
	add("pods", nil, p.PodAffinity)
	add("namespaces", p.NamespaceNames, p.NamespaceAffinity)
	add("nodes", p.NodeNames, p.NodeAffinity)
	add("network attachments", p.MultusNames, nil)
	return all
}

// labelText returns a selector in the syntax of kubectl.
func labelText(selector *pool.Selector) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(selector.MatchLabels)) {
		parts = append(parts, key+"="+selector.MatchLabels[key])
	}
	for _, r := range selector.MatchExpressions {
		parts = append(parts, r.String())
	}
	return cmp.Or(strings.Join(parts, ","), "any labels")
}

// PoolDetails are a pool with its ranges and problems.
type PoolDetails struct {
	Pool
	IPs      []string  `json:"ips"`
	Exclude  []string  `json:"excludeIPs,omitempty"`
	Routes   []string  `json:"routes,omitempty"`
	Usable   []string  `json:"usable"` // for pods
	Findings []Finding `json:"findings,omitempty"`
}

// PoolDetails returns the pool, and false if there is none of that name.
func (s *State) PoolDetails(name string) (PoolDetails, bool) {
	p, ok := s.pools.Get(name)
	if !ok {
		return PoolDetails{}, false
	}
	d := PoolDetails{Pool: s.pool(p), IPs: p.IPs.Strings(), Exclude: p.Exclude.Strings(), Usable: s.pools.Usable(name).Strings()}
	for _, route := range p.Routes {
		d.Routes = append(d.Routes, route.String())
	}
	if f, ok := d.Pool.finding(); ok {
		d.Findings = append(d.Findings, f)
	}
	return d, true
}

// Network returns the subnet, "" for an invalid one.
func (p Pool) Network() string {
	if !p.Subnet.IsValid() {
		return ""
	}
	return p.Subnet.String()
}

// finding returns why the pool gives pods no address, if so.
func (p Pool) finding() (Finding, bool) {
	f := Finding{Subject: "SpiderIPPool " + p.Name}
	edit := "kubectl edit spiderippool " + p.Name
	switch {
	case p.State == "Invalid":
		f.Problem, f.Remedy = "it is invalid and hands out no address: "+p.Problem, "correct the field: "+edit
	case p.State == "Foreign":
		f.Problem, f.Remedy = "it hands out no address: "+p.Problem, "kubectl describe spiderippool "+p.Name+" has the condition Ready with the way out"
	case p.State == "Disabled":
		f.Problem, f.Remedy = "it hands out no address, because spec.disable is true", "if that is not wanted, remove spec.disable: "+edit
	case p.State == "Terminating":
		f.Problem, f.Remedy = fmt.Sprintf("it is being deleted, and waits for the end of %d addresses", p.InUse+p.Retained), "spiderpoolctl ip list --pool "+p.Name+" names the pods"
	case p.Total == 0:
		f.Problem, f.Remedy = "it has no address for pods: spec.ips is empty, or excluded and reserved addresses take all of it", "add addresses to spec.ips: "+edit
	case p.Free == 0:
		f.Problem, f.Remedy = "it is full: "+p.taken(), "add addresses to spec.ips: "+edit+"; spiderpoolctl pool usage "+p.Name+" names the workloads"
	default:
		return Finding{}, false
	}
	return f, true
}

func (p Pool) taken() string {
	return lease.Usage{Total: p.Total, Free: p.Free, InUse: p.InUse, Retained: p.Retained, Quarantined: p.Quarantined, Withheld: p.Withheld, Former: p.Former}.String()
}

// PoolUsage are the holders of a pool's addresses.
type PoolUsage struct {
	Pool
	Nodes     []Count `json:"nodes"`
	Workloads []Count `json:"workloads"`
}

// Count is the number of addresses of one node or workload.
type Count struct {
	Name     string `json:"name"`
	InUse    int    `json:"inUse"`
	Retained int    `json:"retained"`
}

// PoolUsage returns the holders, the largest first, and false if there is no pool of that name.
func (s *State) PoolUsage(name string) (PoolUsage, bool) {
	p, ok := s.pools.Get(name)
	if !ok {
		return PoolUsage{}, false
	}
	nodes, workloads := map[string]*Count{}, map[string]*Count{}
	for _, a := range s.Addresses(Filter{Pool: name}) {
		if a.State != string(lease.InUse) && a.State != string(lease.Retained) {
			continue
		}
		count(nodes, cmp.Or(a.Node, "unknown"), a.State)
		count(workloads, cmp.Or(a.Workload, a.FixedFor, "Pod/"+a.Pod), a.State)
	}
	return PoolUsage{Pool: s.pool(p), Nodes: sorted(nodes), Workloads: sorted(workloads)}, true
}

func count(counts map[string]*Count, name, state string) {
	c := counts[name]
	if c == nil {
		c = &Count{Name: name}
		counts[name] = c
	}
	if state == string(lease.Retained) {
		c.Retained++
	} else {
		c.InUse++
	}
}

func sorted(counts map[string]*Count) []Count {
	all := []Count{}
	for _, c := range counts {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.InUse+b.Retained, a.InUse+a.Retained), cmp.Compare(a.Name, b.Name))
	})
	return all
}
