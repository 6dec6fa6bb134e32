package pool

import (
	"maps"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Catalog holds the known pools of a process. Concurrent reads are safe as long as
// no call changes it.
type Catalog struct {
	entries  map[string]entry
	defaults []*Pool // pools with Default, sorted by name
	reserved inet.Set
}

type entry struct {
	pool   *Pool
	usable inet.Set
}

// NewCatalog returns an empty catalog.
func NewCatalog() *Catalog {
	return &Catalog{entries: map[string]entry{}}
}

// Clone returns an independent copy.
func (c *Catalog) Clone() *Catalog {
	return &Catalog{entries: maps.Clone(c.entries), defaults: slices.Clone(c.defaults), reserved: c.reserved}
}

// Set adds p or replaces the pool of the same name.
func (c *Catalog) Set(p *Pool) {
	c.Delete(p.Name)
	c.entries[p.Name] = entry{pool: p, usable: p.Usable(c.reserved)}
	if p.Default {
		i, _ := c.findDefault(p.Name)
		c.defaults = slices.Insert(c.defaults, i, p)
	}
}

// Delete removes the pool, if it exists.
func (c *Catalog) Delete(name string) {
	delete(c.entries, name)
	if i, ok := c.findDefault(name); ok {
		c.defaults = slices.Delete(c.defaults, i, i+1)
	}
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
		usable := e.pool.Usable(reserved)
		if !usable.Equal(e.usable) {
			c.entries[name] = entry{pool: e.pool, usable: usable}
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

// Usable returns the usable addresses of the pool, without excluded and reserved
// ones; for an unknown pool, the empty set.
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
