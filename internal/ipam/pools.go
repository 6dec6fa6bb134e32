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
)

const (
	// adoptFor is how long a pool is used that was read because a pod named it. By
	// then the controller has labelled it, and it comes by SetPool if it concerns
	// this node.
	adoptFor = time.Minute
	// maxExplained bounds how many pools are read to explain a failure.
	maxExplained = 100
	// poolTTL is how long a pool that was read because a pod named it serves for
	// other pods.
	poolTTL = time.Second
)

// sharedPools are Pools of which Get shares reads: the pods that wait for an address
// of a full pool name the same others, over and over.
type sharedPools struct {
	Pools
	now   func() time.Time
	reads *poolReads
}

// poolReads are the reads of pools, by name, that run or serve still. The zero value
// is empty.
type poolReads struct {
	mu    sync.Mutex
	reads map[string]*poolRead
}

type poolRead struct {
	sharedRead
	began time.Time
	pool  *pool.Pool
}

// Get implements Pools.
func (p sharedPools) Get(ctx context.Context, name string) (*pool.Pool, error) {
	read, first := p.reads.join(name, p.now())
	if first {
		// The others do not give up with the first one.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		if read.pool, read.err = p.Pools.Get(limited, name); read.err != nil {
			p.reads.forget(name, read)
		}
		close(read.done)
	}
	select {
	case <-read.done:
		return read.pool, read.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// join returns the read of a pool that serves now, and whether the caller is the
// first, who has to carry it out.
func (r *poolReads) join(name string, now time.Time) (read *poolRead, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.reads, func(_ string, read *poolRead) bool { return now.Sub(read.began) >= poolTTL })
	if read, ok := r.reads[name]; ok {
		return read, false
	}
	if r.reads == nil {
		r.reads = map[string]*poolRead{}
	}
	read = &poolRead{sharedRead: sharedRead{done: make(chan struct{})}, began: now}
	r.reads[name] = read
	return read, true
}

// forget keeps a read that failed from serving any longer.
func (r *poolReads) forget(name string, read *poolRead) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reads[name] == read {
		delete(r.reads, name)
	}
}

// SetPool adds a pool or replaces the one of its name.
func (a *Allocator) SetPool(p *pool.Pool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.adopted, p.Name)
	a.setPool(p)
}

func (a *Allocator) setPool(p *pool.Pool) {
	a.catalog.Set(p)
	a.index.SetPool(p.Name, a.catalog.Usable(p.Name))
}

// DeletePool removes a pool, if it is there. Its leases stay.
func (a *Allocator) DeletePool(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deletePool(name)
}

func (a *Allocator) deletePool(name string) {
	delete(a.adopted, name)
	a.catalog.Delete(name)
	a.index.DeletePool(name)
}

// SetReserved replaces the addresses that no pool hands out.
func (a *Allocator) SetReserved(reserved inet.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reserved.Equal(a.reserved) {
		return
	}
	a.reserved = reserved
	for _, name := range a.catalog.SetReserved(reserved) {
		a.index.SetPool(name, a.catalog.Usable(name))
	}
}

// Pool returns a pool by name.
func (a *Allocator) Pool(name string) (*pool.Pool, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.catalog.Get(name)
}

// HandsOut reports whether a pool that this node knows hands out the address.
func (a *Allocator) HandsOut(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.catalog.Names(), func(name string) bool { return a.catalog.Usable(name).Contains(addr) })
}

// Attachments returns the network attachments, sorted, that pools name which are
// bound to the node: those whose pods the node is meant for.
func (a *Allocator) Attachments(node pool.NodeFacts) []pool.NetworkAttachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[pool.NetworkAttachment]bool{}
	for _, name := range a.catalog.Names() {
		if p, _ := a.catalog.Get(name); p.BoundTo(node) {
			for _, entry := range p.MultusNames {
				// An entry without a namespace means any, and cannot be looked up.
				if namespace, name, ok := strings.Cut(entry, "/"); ok {
					seen[pool.NetworkAttachment{Namespace: namespace, Name: name}] = true
				}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b pool.NetworkAttachment) int {
		return strings.Compare(a.String(), b.String())
	})
}

// selectPools selects for one interface. Where what this node watches does not
// do, the other pools are read: for the reasons why they do not do either, and
// because one may be too new to carry the label by which it is watched.
func (a *Allocator) selectPools(ctx context.Context, pools Pools, req *pool.Request, families []inet.Family) ([]pool.Selection, error) {
	a.mu.Lock()
	a.forgetAdopted()
	selections, err := pool.SelectAll(a.catalog, req, families)
	a.mu.Unlock()
	var none pool.NoPools
	if !errors.As(err, &none) {
		return selections, err
	}
	var others []*pool.Pool
	for _, failed := range none {
		more, err := readOthers(ctx, pools, failed.Source, failed.Rejections)
		if err != nil {
			// The missing one may be among them.
			return nil, fmt.Errorf("%w: read the pools that this node does not watch: %w", ErrNotReady, err)
		}
		others = append(others, more...)
	}
	wide := a.catalogWith(others)
	selections, err = pool.SelectAll(wide, req, families)
	if err != nil {
		return nil, err
	}
	a.adopt(selections)
	return selections, nil
}

// selectVersion selects for one interface and IP version among the pools that this
// node watches.
func (a *Allocator) selectVersion(req *pool.Request, family inet.Family) (pool.Selection, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return pool.Select(a.catalog, req, family)
}

// selectWide selects again with the pools read that were unknown to a selection.
func (a *Allocator) selectWide(ctx context.Context, pools Pools, req *pool.Request, narrow pool.Selection) (pool.Selection, error) {
	others, err := readOthers(ctx, pools, narrow.Source, narrow.Rejections)
	if err != nil {
		return pool.Selection{}, err
	}
	wide, err := pool.Select(a.catalogWith(others), req, narrow.Family)
	if err != nil {
		return pool.Selection{}, err
	}
	a.adopt([]pool.Selection{wide})
	return wide, nil
}

// readOthers reads the named pools that are unknown, or, where no names or
// wildcards are given, a bounded number of all.
func readOthers(ctx context.Context, pools Pools, source pool.Source, rejections []pool.Rejection) ([]*pool.Pool, error) {
	var found []*pool.Pool
	listed := source == pool.SourceNone || source == pool.SourceDefault
	for _, rejection := range rejections {
		if rejection.Cause != pool.CauseUnknown || len(found) >= maxExplained {
			continue
		}
		if strings.Contains(rejection.Pool, "*") {
			listed = true
			continue
		}
		p, err := pools.Get(ctx, rejection.Pool)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	if !listed {
		return found, nil
	}
	all, err := pools.List(ctx, maxExplained)
	return append(found, all...), err
}

// catalogWith returns a catalog of the known pools and the others.
func (a *Allocator) catalogWith(others []*pool.Pool) *pool.Catalog {
	a.mu.Lock()
	defer a.mu.Unlock()
	wide := pool.NewCatalog()
	wide.SetReserved(a.reserved)
	for _, p := range others {
		wide.Set(p)
	}
	for _, name := range a.catalog.Names() {
		if p, ok := a.catalog.Get(name); ok {
			wide.Set(p)
		}
	}
	return wide
}

// adopt takes selected pools that are not watched into use for a while.
func (a *Allocator) adopt(selections []pool.Selection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range selections {
		for _, p := range s.Pools {
			if _, known := a.catalog.Get(p.Name); !known {
				a.setPool(p)
				a.adopted[p.Name] = a.now()
			}
		}
	}
}

// forgetAdopted ends the use of pools that were never confirmed by SetPool.
func (a *Allocator) forgetAdopted() {
	now := a.now()
	for name, since := range a.adopted {
		if now.Sub(since) > adoptFor {
			a.deletePool(name)
		}
	}
}
