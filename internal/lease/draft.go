package lease

import (
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func (x *Index) newDraft(now time.Time) *draft {
	return &draft{Index: x, now: now, stored: map[netip.Addr]*Block{}, granted: map[netip.Addr]bool{}}
}

// draft tries changes out in the index and takes them back.
type draft struct {
	*Index
	now    time.Time
	stored map[netip.Addr]*Block // the changed blocks as they were; nil: none
	undo   []undo                // of the request that is being served
	// granted are the addresses that requests of the batch were given: another one,
	// of the same pod or owner, does not take them over.
	granted map[netip.Addr]bool
}

type undo struct {
	base   netip.Addr
	before *Block // nil: none
}

// put changes a block.
func (d *draft) put(b Block) {
	b = b.forgetting(d.now, d.reuseAfter)
	var before *Block
	if k, ok := d.blocks[b.Base]; ok {
		was := k.block
		before = &was
	}
	if _, ok := d.stored[b.Base]; !ok {
		d.stored[b.Base] = before
	}
	d.undo = append(d.undo, undo{b.Base, before})
	d.Put(b, d.now)
}

func (d *draft) restore(base netip.Addr, before *Block) {
	if before == nil {
		d.Delete(base)
	} else {
		d.Put(*before, d.now)
	}
}

// finish takes all changes back and returns the changed blocks, sorted by name.
func (d *draft) finish() []Block {
	changed := make([]Block, 0, len(d.stored))
	for base := range d.stored {
		if k, ok := d.blocks[base]; ok {
			changed = append(changed, k.block)
		}
	}
	for base, before := range d.stored {
		d.restore(base, before)
	}
	slices.SortFunc(changed, func(a, b Block) int { return a.Base.Compare(b.Base) })
	return changed
}

// serve grants all that r wants, or nothing.
func (d *draft) serve(r Request) Result {
	if newer, ok := d.newer(r); ok {
		return Result{Err: &SupersededError{Lease: newer}}
	}
	result, missed := d.attempt(r, nil)
	if missed < 0 {
		return result
	}
	// Each want took the best pool for itself; there may be another way.
	if pools, ok := d.assign(r); ok {
		if result, missed := d.attempt(r, pools); missed < 0 {
			return result
		}
	}
	return Result{Err: d.exhausted(r.Wants[missed])}
}

// newer returns a lease that another sandbox of the pod was given on this node
// after r arrived: r is of a sandbox that the runtime has given up.
func (d *draft) newer(r Request) (Lease, bool) {
	if r.Arrived.IsZero() {
		return Lease{}, false
	}
	for _, l := range d.OfPod(r.PodUID) {
		if l.State == InUse && l.ContainerID != r.ContainerID && l.Node == r.Node && l.Since.After(r.Arrived) {
			return l, true
		}
	}
	return Lease{}, false
}

// attempt grants all that r wants and returns -1; or changes nothing and returns
// the position of a want for which nothing is left. A new address for the want i
// comes from pools[i], where that is given.
func (d *draft) attempt(r Request, pools []string) (result Result, missed int) {
	d.undo = d.undo[:0]
	result.Grants = make([]Grant, 0, len(r.Wants))
	for i, w := range r.Wants {
		from := w.Pools
		if pools != nil {
			from = pools[i : i+1]
		}
		g, ok := d.grant(r, w, from)
		if !ok {
			d.rollBack()
			return Result{}, i
		}
		result.Grants = append(result.Grants, g)
	}
	result.GivenUp = d.giveUpRetained(r)
	result.Blocks = d.dependsOn(result.Grants)
	for _, g := range result.Grants {
		d.granted[g.Addr] = true
	}
	return result, -1
}

// dependsOn returns the names of the blocks whose writes must succeed for the
// grants of the request that was just served.
func (d *draft) dependsOn(grants []Grant) []netip.Addr {
	var names []netip.Addr
	for _, u := range d.undo {
		names = append(names, u.base)
	}
	// A container that holds an address only since an earlier request of the same
	// batch depends on the same write.
	for _, g := range grants {
		base := inet.BlockOf(g.Addr)
		if l, ok := d.blocks[base].block.Lease(g.Addr); ok && g.Held && !d.isStored(l) {
			names = append(names, base)
		}
	}
	slices.SortFunc(names, netip.Addr.Compare)
	return slices.Compact(names)
}

// assign chooses a pool for every want of r that needs a new address so that all
// of them get one, and returns false where there is no way. The others have "".
// It augments paths as in bipartite matching (Kuhn): a want that finds its pools
// full moves another one to one of its own other pools.
func (d *draft) assign(r Request) ([]string, bool) {
	pools := make([]string, len(r.Wants))
	users := map[string][]int{} // pool → wants
	var place func(i int, visited map[string]bool) bool
	place = func(i int, visited map[string]bool) bool {
		w := r.Wants[i]
		for _, name := range w.Pools {
			if p, ok := d.pools[name]; ok && p.family == w.Family && int64(len(users[name])) < d.Usage(name).Free {
				pools[i], users[name] = name, append(users[name], i)
				return true
			}
		}
		for _, name := range w.Pools {
			if p, ok := d.pools[name]; !ok || p.family != w.Family || visited[name] {
				continue
			}
			visited[name] = true
			for k, other := range users[name] {
				if place(other, visited) {
					pools[i], users[name][k] = name, i
					return true
				}
			}
		}
		return false
	}
	for i, w := range r.Wants {
		if _, has := d.former(r, w); !has && !place(i, map[string]bool{}) {
			return nil, false
		}
	}
	return pools, true
}

// rollBack takes the changes of the request back, and what then is as it was
// before the batch is not written.
func (d *draft) rollBack() {
	for _, u := range slices.Backward(d.undo) {
		d.restore(u.base, u.before)
	}
	for _, u := range d.undo {
		stored, now := d.stored[u.base], d.blocks[u.base]
		if stored != nil && now != nil && slices.Equal(stored.Leases, now.block.Leases) {
			delete(d.stored, u.base)
		}
	}
}

// isStored reports whether the lease was there before the batch.
func (d *draft) isStored(l Lease) bool {
	before, changed := d.stored[inet.BlockOf(l.Addr)]
	if !changed {
		return true
	}
	if before == nil {
		return false
	}
	was, _ := before.Lease(l.Addr)
	return was == l
}

// grant gives w an address: the one that it has or had, else one of the pools.
func (d *draft) grant(r Request, w Want, pools []string) (Grant, bool) {
	if l, ok := d.former(r, w); ok {
		if l.State == InUse && l.ContainerID == r.ContainerID {
			return Grant{w.Interface, w.Family, l.Addr, l.Pool, true}, true
		}
		return d.take(r, w, l.Addr, l.Pool), true
	}
	for _, name := range pools {
		if p, ok := d.pools[name]; ok && p.family == w.Family {
			if a, ok := d.pick(p); ok {
				return d.take(r, w, a, name), true
			}
		}
	}
	return Grant{}, false
}

// former returns the lease that w is to have: of the container itself, of another
// sandbox of the same pod, or fixed for the same owner.
func (d *draft) former(r Request, w Want) (Lease, bool) {
	for _, l := range d.Attached(Attachment{r.ContainerID, w.Interface}) {
		if inet.FamilyOf(l.Addr) == w.Family {
			return l, true
		}
	}
	for _, leases := range [][]Lease{d.OfPod(r.PodUID), d.FixedFor(r.FixedFor)} {
		for _, l := range leases {
			if l.Interface == w.Interface && inet.FamilyOf(l.Addr) == w.Family && d.mayUse(w, l) && !d.granted[l.Addr] {
				return l, true
			}
		}
	}
	return Lease{}, false
}

// mayUse reports whether the address of a former lease is one of a wanted pool.
func (d *draft) mayUse(w Want, l Lease) bool {
	p, ok := d.pools[l.Pool]
	return ok && slices.Contains(w.Pools, l.Pool) && p.usable.Contains(l.Addr)
}

// pick returns the address of p that is to be handed out next, and false where
// none is left.
func (d *draft) pick(p *poolIndex) (netip.Addr, bool) {
	if e, ok := p.ownFree.first(); ok {
		return e.lowestFree(), true
	}
	if a, ok := p.unclaimed(); ok {
		return a, true
	}
	if e, ok := p.othersFree.first(); ok {
		return e.lowestFree(), true
	}
	for _, q := range []*queue[*entry]{&p.ownCooling, &p.othersCooling} {
		if e, ok := q.first(); ok {
			l, _ := e.longestReleased()
			return l.Addr, true
		}
	}
	return netip.Addr{}, false
}

func (e *entry) lowestFree() netip.Addr { return lowest(e.block.Base, e.mask&e.free) }

// unclaimed returns the lowest address in a block that nobody created, and false
// where there is no such block. The place to look from changes with every block
// that becomes known, so that a node that runs into blocks it did not know of
// does not follow their row.
func (p *poolIndex) unclaimed() (netip.Addr, bool) {
	count := p.usable.BlockCount()
	if count == 0 {
		return netip.Addr{}, false
	}
	start := (p.start + uint64(len(p.entries))*0x9e3779b97f4a7c15) % count
	n, ok := p.claimed.firstFree(start, count)
	if !ok {
		return netip.Addr{}, false
	}
	base, ok := p.usable.NthBlock(n)
	return lowest(base, p.usable.Mask(base)), ok
}

// take leases a to the request, whoever had it.
func (d *draft) take(r Request, w Want, a netip.Addr, pool string) Grant {
	base := inet.BlockOf(a)
	b, ok := d.Block(base)
	if !ok {
		b.Base = base
	}
	if b.Removable(d.now, 0) {
		b.Node = d.node // nobody has anything in it
	}
	d.put(b.with(Lease{
		Addr:  a,
		State: InUse,
		Pool:  pool,
		Holder: Holder{
			Attachment: Attachment{r.ContainerID, w.Interface},
			Pod:        r.Pod,
			PodUID:     r.PodUID,
			Node:       r.Node,
			FixedFor:   r.FixedFor,
		},
		Since: stamp(d.now),
	}))
	return Grant{Interface: w.Interface, Family: w.Family, Addr: a, Pool: pool}
}

// giveUpRetained releases what is still retained for the owner of a request that
// was granted all it wants: addresses that it cannot use any more, and those of
// interfaces and IP versions that it has no more. It returns them as they were.
func (d *draft) giveUpRetained(r Request) (given []Lease) {
	for _, l := range d.FixedFor(r.FixedFor) {
		if l.State != Retained {
			continue
		}
		b, _ := d.Block(inet.BlockOf(l.Addr))
		d.put(b.with(released(l.Addr, d.now)))
		given = append(given, l)
	}
	return given
}

func (d *draft) exhausted(w Want) *ExhaustedError {
	e := &ExhaustedError{Interface: w.Interface, Family: w.Family}
	for _, name := range w.Pools {
		e.Pools = append(e.Pools, PoolUsage{name, d.Usage(name)})
	}
	return e
}

func lowest(base netip.Addr, m inet.Mask) netip.Addr {
	return inet.BlockAddr(base, bits.TrailingZeros16(uint16(m)))
}
