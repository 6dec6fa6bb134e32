package ipam

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/readcache"
)

const (
	// adoptFor is how long the catalog keeps a pool that it read because a pod named
	// it. By then the controller has labelled the pool, and SetPool adds it if it
	// concerns this node.
	adoptFor = time.Minute
	// maxExplained bounds how many pools are read for one ADD, and so what a pod with many
	// unknown names costs. One list of as many pools comes on top.
	maxExplained = 100
	// poolTTL is how long a pool that was read for one pod serves other pods.
	poolTTL = time.Second
)

// PoolCatalog holds the pools of a node: the watched ones (SetPool, DeletePool,
// SetReserved, SetNodeAddrs), and for a minute those that a pod named and that were
// read for it.
// Selection and its explanation run on a snapshot, outside any lock.
//
// All methods are safe for concurrent use.
type PoolCatalog struct {
	// Pools reads the pools that this node does not watch.
	Pools Pools

	now       func() time.Time
	setUsable func(name string, usable inet.Set)
	// reads coalesces concurrent reads. When a pool is full, every waiting pod asks
	// for the same fallback pools.
	reads readcache.Cache[string, *pool.Pool]

	// mu is held while setUsable runs, so that its calls come in the order of the
	// changes.
	mu struct {
		sync.Mutex
		// current never changes while published is true: change replaces it by a copy.
		current   *pool.Catalog
		published bool
		reserved  inet.Set // SpiderReservedIPs
		own       inet.Set // addresses of the node
		// adopted says when a pool in current was read for a pod. SetPool and
		// DeletePool remove the entry: the watch has the last word.
		adopted map[string]time.Time
	}
}

// NewPoolCatalog returns an empty catalog. It calls setUsable (Allocator.SetUsable)
// with the addresses of each pool that changes, the empty set for a deleted one.
// setUsable must not call the catalog.
func NewPoolCatalog(pools Pools, now func() time.Time, setUsable func(name string, usable inet.Set)) *PoolCatalog {
	c := &PoolCatalog{Pools: pools, now: now, setUsable: setUsable}
	c.reads.TTL, c.reads.Now = poolTTL, now
	c.mu.current, c.mu.adopted = pool.NewCatalog(), map[string]time.Time{}
	return c
}

// snapshot returns the pools as they are now. The result never changes.
func (c *PoolCatalog) snapshot() *pool.Catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, since := range c.mu.adopted {
		if c.now().Sub(since) > adoptFor {
			c.deletePool(name)
		}
	}
	c.mu.published = true
	return c.mu.current
}

// change returns the catalog to write to; the lock is held. Nodes watch few pools,
// so a copy after each snapshot is cheap.
func (c *PoolCatalog) change() *pool.Catalog {
	if c.mu.published {
		c.mu.current, c.mu.published = c.mu.current.Clone(), false
	}
	return c.mu.current
}

// SetPool adds a pool or replaces the one of its name.
func (c *PoolCatalog) SetPool(p *pool.Pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.adopted, p.Name)
	c.setPool(p)
}

func (c *PoolCatalog) setPool(p *pool.Pool) {
	catalog := c.change()
	c.tell(catalog, catalog.Set(p))
}

// tell passes on the usable addresses of pools.
func (c *PoolCatalog) tell(catalog *pool.Catalog, names []string) {
	for _, name := range names {
		c.setUsable(name, catalog.Usable(name))
	}
}

// DeletePool removes a pool, if it is there. Its leases stay.
func (c *PoolCatalog) DeletePool(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deletePool(name)
}

func (c *PoolCatalog) deletePool(name string) {
	delete(c.mu.adopted, name)
	catalog := c.change()
	changed := catalog.Delete(name)
	c.setUsable(name, inet.Set{})
	c.tell(catalog, changed)
}

// SetReserved replaces the addresses that no pool hands out.
func (c *PoolCatalog) SetReserved(reserved inet.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reserved.Equal(c.mu.reserved) {
		c.mu.reserved = reserved
		c.setReserved()
	}
}

// SetNodeAddrs replaces the addresses of the node itself. No pool hands them out.
func (c *PoolCatalog) SetNodeAddrs(own inet.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !own.Equal(c.mu.own) {
		c.mu.own = own
		c.setReserved()
	}
}

func (c *PoolCatalog) setReserved() {
	catalog := c.change()
	c.tell(catalog, catalog.SetReserved(inet.Union(c.mu.reserved, c.mu.own)))
}

// Pool returns a pool by name.
func (c *PoolCatalog) Pool(name string) (*pool.Pool, bool) {
	return c.snapshot().Get(name)
}

// HandsOut reports whether a pool in the catalog hands out the address.
func (c *PoolCatalog) HandsOut(addr netip.Addr) bool {
	catalog := c.snapshot()
	return slices.ContainsFunc(catalog.Names(), func(name string) bool { return catalog.Usable(name).Contains(addr) })
}

// Attachments returns the network attachments, sorted, that the pools bound to the
// node name: the attachments of the pods that the node is meant for.
func (c *PoolCatalog) Attachments(node pool.NodeFacts) []pool.NetworkAttachment {
	catalog := c.snapshot()
	seen := map[pool.NetworkAttachment]bool{}
	for _, name := range catalog.Names() {
		p, _ := catalog.Get(name)
		if !p.BoundTo(node) {
			continue
		}
		for _, entry := range p.MultusNames {
			// An entry without a namespace means any, and cannot be looked up.
			if namespace, name, ok := strings.Cut(entry, "/"); ok {
				seen[pool.NetworkAttachment{Namespace: namespace, Name: name}] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b pool.NetworkAttachment) int {
		return strings.Compare(a.String(), b.String())
	})
}

// Select returns the pools of each family that an interface may take an address
// from. It considers the pools that this node watches. If none is a candidate, or
// the candidates are exhausted, it reads the other named pools too: they may have
// addresses, one may be too new to carry the label by which it is watched, and the
// user wants to know why the rest is rejected. All calls of one ADD share reads.
//
// The errors are those of pool.SelectAll, and ErrNotReady if pools cannot be read.
func (c *PoolCatalog) Select(ctx context.Context, reads *liveReads, req *pool.Request, families []inet.Family, exhausted bool) ([]pool.Selection, error) {
	catalog := c.snapshot()
	selections, err := pool.SelectAll(catalog, req, families)
	var none pool.NoPools
	if !errors.As(err, &none) && (err != nil || !exhausted) {
		return selections, err
	}
	for _, s := range selections {
		if namesUnknown(s) {
			none = append(none, &pool.NoPoolError{Source: s.Source, Rejections: s.Rejections})
		}
	}
	if len(none) == 0 {
		return selections, err
	}
	wide := catalog.Clone()
	read := false
	for _, n := range none {
		others, err := c.readOthers(ctx, reads, n.Source, n.Rejections)
		if err != nil {
			// The missing pool may be among them.
			return nil, fmt.Errorf("%w: read the pools that this node does not watch: %w", ErrNotReady, err)
		}
		for _, p := range others {
			if _, known := catalog.Get(p.Name); !known {
				wide.Set(p)
				read = true
			}
		}
	}
	if !read {
		return selections, err
	}
	if selections, err = pool.SelectAll(wide, req, families); err == nil {
		c.adopt(selections)
	}
	return selections, err
}

// namesUnknown reports whether the selection names a pool that the catalog lacks.
func namesUnknown(s pool.Selection) bool {
	return slices.ContainsFunc(s.Rejections, func(r pool.Rejection) bool { return r.Cause == pool.CauseUnknown })
}

// liveReads are the pools that were read for one ADD. The zero value is empty.
type liveReads struct {
	byName map[string]*pool.Pool // nil: there is none of that name
	listed bool
	all    []*pool.Pool // if listed
}

// readOthers reads the named pools that are unknown or, if the source gives no names
// or a wildcard, a bounded number of all pools.
func (c *PoolCatalog) readOthers(ctx context.Context, reads *liveReads, source pool.Source, rejections []pool.Rejection) ([]*pool.Pool, error) {
	var found []*pool.Pool
	list := source == pool.SourceNone || source == pool.SourceDefault
	for _, rejection := range rejections {
		if rejection.Cause != pool.CauseUnknown {
			continue
		}
		if pool.IsPattern(rejection.Pool) {
			list = true
			continue
		}
		p, err := c.readOne(ctx, reads, rejection.Pool)
		if err != nil {
			return nil, err
		}
		if p != nil {
			found = append(found, p)
		}
	}
	if list && !reads.listed {
		all, err := c.Pools.List(ctx, maxExplained)
		if err != nil {
			return nil, err
		}
		reads.listed, reads.all = true, all
	}
	if list {
		found = append(found, reads.all...)
	}
	return found, nil
}

// readOne reads a pool, unless the ADD has read it or too many others. It returns nil for
// none.
func (c *PoolCatalog) readOne(ctx context.Context, reads *liveReads, name string) (*pool.Pool, error) {
	if p, ok := reads.byName[name]; ok || len(reads.byName) >= maxExplained {
		return p, nil
	}
	p, err := c.reads.Get(ctx, name, func(ctx context.Context) (*pool.Pool, error) { return c.Pools.Get(ctx, name) })
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if err != nil {
		p = nil
	}
	if reads.byName == nil {
		reads.byName = map[string]*pool.Pool{}
	}
	reads.byName[name] = p
	return p, nil
}

// adopt adds selected pools that the node does not watch for adoptFor.
func (c *PoolCatalog) adopt(selections []pool.Selection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range selections {
		for _, p := range s.Pools {
			if _, known := c.mu.current.Get(p.Name); !known {
				c.setPool(p)
				c.mu.adopted[p.Name] = c.now()
			}
		}
	}
}
