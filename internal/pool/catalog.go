package pool

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Catalog holds the known pools of a process. Concurrent reads are safe as long as
// no call changes it.
type Catalog struct {
	entries  map[string]entry
	defaults []*Pool                 // pools with Default, sorted by name
	subnets  map[netip.Prefix]subnet // no entry is empty
	reserved inet.Set
	matches  *matches
}

// subnet indexes the pools of a subnet, so that a change of a gateway costs as much as
// the subnet has pools, and a change of another field nothing.
type subnet struct {
	pools    []string
	gateways map[netip.Addr]int // pools by gateway; replaced by each change, never written
}

type entry struct {
	pool   *Pool
	usable inet.Set
}

// NewCatalog returns an empty catalog.
func NewCatalog() *Catalog {
	return &Catalog{entries: map[string]entry{}, subnets: map[netip.Prefix]subnet{}, matches: &matches{}}
}

// Clone returns an independent copy.
func (c *Catalog) Clone() *Catalog {
	subnets := make(map[netip.Prefix]subnet, len(c.subnets))
	for prefix, s := range c.subnets {
		s.pools = slices.Clip(s.pools) // the next append copies
		subnets[prefix] = s
	}
	return &Catalog{entries: maps.Clone(c.entries), defaults: slices.Clone(c.defaults), subnets: subnets, reserved: c.reserved, matches: c.matches.clone()}
}

// Set adds p or replaces the pool of the same name. It returns the names of the pools
// with a change of their usable addresses: p, and those with its gateway, or the
// gateway of its former version, among their addresses.
func (c *Catalog) Set(p *Pool) []string {
	former := c.entries[p.Name].pool
	if former == nil {
		c.matches.change(p.Name, true)
	}
	c.remove(p.Name)
	c.entries[p.Name] = entry{pool: p}
	if p.Default {
		i, _ := c.findDefault(p.Name)
		c.defaults = slices.Insert(c.defaults, i, p)
	}
	s := c.subnets[p.Subnet]
	s.pools = append(s.pools, p.Name)
	c.subnets[p.Subnet] = s.count(p.Gateway, 1)
	return append(c.refresh(former, p), p.Name)
}

// Delete removes the pool, if it exists. It returns the names of the pools with a
// change of their usable addresses: those with its gateway among them.
func (c *Catalog) Delete(name string) []string {
	former := c.entries[name].pool
	c.remove(name)
	c.matches.change(name, false)
	return c.refresh(former, nil)
}

func (c *Catalog) remove(name string) {
	former, known := c.entries[name]
	if !known {
		return
	}
	delete(c.entries, name)
	if i, ok := c.findDefault(name); ok {
		c.defaults = slices.Delete(c.defaults, i, i+1)
	}
	prefix := former.pool.Subnet
	s := c.subnets[prefix]
	s.pools = slices.DeleteFunc(slices.Clone(s.pools), func(other string) bool { return other == name })
	c.subnets[prefix] = s.count(former.pool.Gateway, -1)
	if len(s.pools) == 0 {
		delete(c.subnets, prefix)
	}
}

// count returns the index with delta pools more for a gateway.
func (s subnet) count(gateway netip.Addr, delta int) subnet {
	if gateway.IsValid() {
		s.gateways = maps.Clone(s.gateways)
		if s.gateways == nil {
			s.gateways = map[netip.Addr]int{}
		}
		if s.gateways[gateway] += delta; s.gateways[gateway] == 0 {
			delete(s.gateways, gateway)
		}
	}
	return s
}

// refresh computes the usable addresses of p, and of the pools that a change of the
// gateway from former to p concerns. It returns the names of the latter with a change.
func (c *Catalog) refresh(former, p *Pool) []string {
	if p != nil {
		c.entries[p.Name] = entry{pool: p, usable: c.usableOf(p)}
	}
	var changed []string
	for _, owner := range []*Pool{former, p} {
		// Only the first pool with a gateway, and the last, changes anything for others.
		if owner == nil || !owner.Gateway.IsValid() || c.subnets[owner.Subnet].gateways[owner.Gateway] > 1 {
			continue
		}
		for _, name := range c.subnets[owner.Subnet].pools {
			if e := c.entries[name]; e.pool != p && e.pool.IPs.Contains(owner.Gateway) && c.update(e.pool) {
				changed = append(changed, name)
			}
		}
	}
	return changed
}

// usableOf returns the addresses of p for pods: no pod gets the gateway of another
// pool of the subnet, because that would take the network from all.
func (c *Catalog) usableOf(p *Pool) inet.Set {
	var gateways []netip.Addr
	for gateway := range c.subnets[p.Subnet].gateways {
		if p.IPs.Contains(gateway) {
			gateways = append(gateways, gateway)
		}
	}
	usable := p.Usable(c.reserved)
	if len(gateways) == 0 {
		return usable
	}
	return usable.Minus(inet.OfAddrs(gateways...))
}

// update computes the usable addresses of p and reports a change.
func (c *Catalog) update(p *Pool) bool {
	usable := c.usableOf(p)
	changed := !usable.Equal(c.entries[p.Name].usable)
	c.entries[p.Name] = entry{pool: p, usable: usable}
	return changed
}

// findDefault returns the position of the name in defaults, or its insertion point
// and false.
func (c *Catalog) findDefault(name string) (int, bool) {
	return slices.BinarySearchFunc(c.defaults, name, func(p *Pool, name string) int { return strings.Compare(p.Name, name) })
}

// Get returns the pool.
func (c *Catalog) Get(name string) (*Pool, bool) {
	e, ok := c.entries[name]
	return e.pool, ok
}

// Names returns the names of all pools, sorted. The caller owns the slice.
func (c *Catalog) Names() []string { return slices.Sorted(maps.Keys(c.entries)) }

// SetReserved replaces the reserved addresses of both IP families (SpiderReservedIP).
// It returns the sorted names of the pools with a change of their usable addresses.
func (c *Catalog) SetReserved(reserved inet.Set) []string {
	c.reserved = reserved
	var changed []string
	for name, e := range c.entries {
		if c.update(e.pool) {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

// Usable returns the usable addresses of the pool, without excluded and reserved
// ones and without the gateways of all pools of its subnet; for an unknown pool, the
// empty set.
func (c *Catalog) Usable(name string) inet.Set { return c.entries[name].usable }

// nearest returns the pool name most similar to name, and false if more than a third
// of the letters differ in all of them.
func (c *Catalog) nearest(name string) (string, bool) {
	best, distance := "", len(name)/3+1
	for _, candidate := range c.Names() {
		if d := editDistance(name, candidate, distance); d < distance {
			best, distance = candidate, d
		}
	}
	return best, best != ""
}

// editDistance returns the Levenshtein distance of a and b in bytes, or limit if the
// distance is greater.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		least := row[0]
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
			least = min(least, row[j+1])
		}
		if least >= limit {
			return limit
		}
	}
	return min(row[len(b)], limit)
}
