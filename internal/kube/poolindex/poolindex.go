// Package poolindex keeps all SpiderIPPools of the cluster in compiled form and
// finds conflicts between them.
//
// Informers feed the index, so it may lag behind the API server. That is enough for
// admission and conditions: two pods never get one address, even if two pools
// share it.
package poolindex

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
)

// Conflict is a pool that shares a subnet or addresses with another pool against the rules.
type Conflict struct {
	Pool    string // the other pool
	Created time.Time
	Field   string // "subnet" or "ips", a field of the examined pool
	Reason  string // the fault and the way out
}

type entry struct {
	pool    pool.Pool
	created time.Time
}

// Index holds the compiled pools and reserved addresses. The zero value is not
// usable; see New. Its methods may be called concurrently, except Subscribe and Watch.
type Index struct {
	mu       sync.RWMutex
	pools    map[string]entry
	subnets  map[netip.Prefix]map[string]struct{} // the names in pools by their subnet; no entry is empty
	reserved map[string]inet.Set                  // by SpiderReservedIP; no set is empty
	all      inet.Set                             // the union of reserved
	changed  []func(pools []string)               // subscribers
	feeds    []toolscache.ResourceEventHandlerRegistration
}

// New returns an empty index.
func New() *Index {
	return &Index{
		pools:    map[string]entry{},
		subnets:  map[netip.Prefix]map[string]struct{}{},
		reserved: map[string]inet.Set{},
	}
}

// Subscribe registers f. After each change the index calls f with the names of the
// affected pools: the changed pool, every pool in conflict with it before or after
// the change, and the pools with addresses in a changed reservation. Call Subscribe
// before Watch; f must not block.
func (x *Index) Subscribe(f func(pools []string)) { x.changed = append(x.changed, f) }

// Watch feeds the index from the informers of c. It returns once the handlers are
// registered; the informers start with the cache. Call Watch before Synced.
func (x *Index) Watch(ctx context.Context, c cache.Cache) error {
	pools, err := c.GetInformer(ctx, &v2beta1.SpiderIPPool{})
	if err != nil {
		return fmt.Errorf("watch SpiderIPPools: %w", err)
	}
	poolFeed, err := pools.AddEventHandler(handlers(x.SetPool, func(p *v2beta1.SpiderIPPool) { x.DeletePool(p.Name) }))
	if err != nil {
		return fmt.Errorf("watch SpiderIPPools: %w", err)
	}
	reserved, err := c.GetInformer(ctx, &v2beta1.SpiderReservedIP{})
	if err != nil {
		return fmt.Errorf("watch SpiderReservedIPs: %w", err)
	}
	reservedFeed, err := reserved.AddEventHandler(handlers(x.SetReserved, func(r *v2beta1.SpiderReservedIP) { x.DeleteReserved(r.Name) }))
	if err != nil {
		return fmt.Errorf("watch SpiderReservedIPs: %w", err)
	}
	x.feeds = append(x.feeds, poolFeed, reservedFeed)
	return nil
}

// Synced reports whether the index holds every object that existed when the watch
// began. The cache may be synced earlier.
func (x *Index) Synced() bool {
	for _, feed := range x.feeds {
		if !feed.HasSynced() {
			return false
		}
	}
	return true
}

func handlers[T any](set, remove func(*T)) toolscache.ResourceEventHandlerFuncs {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { set(o.(*T)) },
		UpdateFunc: func(_, o any) { set(o.(*T)) },
		DeleteFunc: func(o any) {
			if unknown, missed := o.(toolscache.DeletedFinalStateUnknown); missed {
				o = unknown.Obj
			}
			if object, ok := o.(*T); ok {
				remove(object)
			}
		},
	}
}

// SetPool adds or replaces a pool. A pool that does not compile cannot conflict with
// any other.
func (x *Index) SetPool(in *v2beta1.SpiderIPPool) {
	compiled, errs := compile.Pool(in)
	x.mu.Lock()
	before, existed := x.pools[in.Name]
	if existed && len(errs) == 0 && before.pool.Subnet == compiled.Subnet && before.pool.IPs.Equal(compiled.IPs) {
		x.pools[in.Name] = entry{pool: compiled, created: in.CreationTimestamp.Time}
		x.mu.Unlock()
		x.notify([]string{in.Name})
		return
	}
	concerned := x.remove(in.Name)
	if len(errs) == 0 {
		x.pools[in.Name] = entry{pool: compiled, created: in.CreationTimestamp.Time}
		if x.subnets[compiled.Subnet] == nil {
			x.subnets[compiled.Subnet] = map[string]struct{}{}
		}
		x.subnets[compiled.Subnet][in.Name] = struct{}{}
		concerned = append(concerned, x.conflicting(compiled)...)
	}
	x.mu.Unlock()
	x.notify(append(concerned, in.Name))
}

// DeletePool removes a pool.
func (x *Index) DeletePool(name string) {
	x.mu.Lock()
	concerned := x.remove(name)
	x.mu.Unlock()
	x.notify(append(concerned, name))
}

// remove removes a pool and returns the names of the pools in conflict with it.
func (x *Index) remove(name string) []string {
	before, existed := x.pools[name]
	if !existed {
		return nil
	}
	delete(x.pools, name)
	delete(x.subnets[before.pool.Subnet], name)
	if len(x.subnets[before.pool.Subnet]) == 0 {
		delete(x.subnets, before.pool.Subnet)
	}
	return x.conflicting(before.pool)
}

// SetReserved adds or replaces a SpiderReservedIP. Invalid entries are left out.
func (x *Index) SetReserved(in *v2beta1.SpiderReservedIP) {
	set, _ := compile.ReservedIP(in) // the reconciler reservedip reports the errors
	x.replaceReserved(in.Name, set)
}

// DeleteReserved removes a SpiderReservedIP.
func (x *Index) DeleteReserved(name string) { x.replaceReserved(name, inet.Set{}) }

func (x *Index) replaceReserved(name string, set inet.Set) {
	x.mu.Lock()
	before := x.reserved[name]
	x.reserved[name] = set
	if set.IsEmpty() {
		delete(x.reserved, name)
	}
	var concerned []string
	if !before.Equal(set) {
		sets := make([]inet.Set, 0, len(x.reserved))
		for _, s := range x.reserved {
			sets = append(sets, s)
		}
		x.all = inet.Union(sets...)
		touched := inet.Union(before, set)
		for name, e := range x.pools {
			if e.pool.IPs.Overlaps(touched) {
				concerned = append(concerned, name)
			}
		}
	}
	x.mu.Unlock()
	x.notify(concerned)
}

// Reserved returns the addresses of all SpiderReservedIPs.
func (x *Index) Reserved() inet.Set {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.all
}

// Taken returns the addresses of pools that no pod may get, because they are among
// those of nodes, or the gateway of another pool of the subnet.
func (x *Index) Taken(nodes inet.Set) inet.Set {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var taken []inet.Set
	for _, names := range x.subnets {
		var addrs []netip.Addr
		for name := range names {
			addrs = append(addrs, x.pools[name].pool.Gateway)
		}
		gateways := inet.OfAddrs(addrs...)
		for name := range names {
			p := x.pools[name].pool
			if p.IPs.Overlaps(nodes) || p.IPs.Overlaps(gateways) {
				usable := p.Usable(inet.Set{}) // without its own gateway
				taken = append(taken, usable.And(nodes), usable.And(gateways))
			}
		}
	}
	return inet.Union(taken...)
}

// Conflicts returns the pools in conflict with p, oldest first. Two rules apply:
// subnets are equal or disjoint, and pools of one subnet share no address.
func (x *Index) Conflicts(p pool.Pool) []Conflict {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []Conflict
	for _, name := range x.conflicting(p) {
		other := x.pools[name]
		conflict := Conflict{Pool: name, Created: other.created}
		if other.pool.Subnet == p.Subnet {
			conflict.Field = "ips"
			conflict.Reason = fmt.Sprintf("shares %s with SpiderIPPool %s; remove these addresses from one of the two", p.IPs.And(other.pool.IPs), name)
		} else {
			conflict.Field = "subnet"
			conflict.Reason = fmt.Sprintf("%s overlaps subnet %s of SpiderIPPool %s; use the same subnet or a disjoint one",
				p.Subnet, other.pool.Subnet, name)
		}
		out = append(out, conflict)
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Pool, b.Pool))
	})
	return out
}

// conflicting returns the names of the pools in conflict with p, in no order.
func (x *Index) conflicting(p pool.Pool) []string {
	var out []string
	for subnet, names := range x.subnets {
		if !subnet.Overlaps(p.Subnet) {
			continue
		}
		for name := range names {
			if name != p.Name && (subnet != p.Subnet || x.pools[name].pool.IPs.Overlaps(p.IPs)) {
				out = append(out, name)
			}
		}
	}
	return out
}

func (x *Index) notify(pools []string) {
	if len(pools) == 0 {
		return
	}
	for _, f := range x.changed {
		f(pools)
	}
}
