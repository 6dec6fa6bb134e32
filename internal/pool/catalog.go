package pool

import "spiderpool.dev/spiderpool/internal/ipset"

// Catalog is the pools that a process knows. It is not safe for concurrent use.
type Catalog struct{}

// NewCatalog returns an empty catalog.
func NewCatalog() *Catalog { return &Catalog{} }

// Set adds p or replaces the pool of its name.
func (c *Catalog) Set(p *Pool) {}

// Delete removes the pool, if it is there.
func (c *Catalog) Delete(name string) {}

// Get returns the pool.
func (c *Catalog) Get(name string) (*Pool, bool) { return nil, false }

// Names returns the names of all pools, sorted. The slice is the caller's.
func (c *Catalog) Names() []string { return nil }

// SetReserved replaces the addresses that no pool hands out (SpiderReservedIP),
// of both IP versions.
func (c *Catalog) SetReserved(reserved ipset.Set) {}

// Usable returns the addresses that the pool may hand out, after exclusions and
// reservations; the empty set for an unknown pool.
func (c *Catalog) Usable(name string) ipset.Set { return ipset.Set{} }
