package lease

import (
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func (x *Index) newTxn(now time.Time) *txn {
	return &txn{Index: x, now: now, original: map[netip.Addr]*Block{}, granted: map[netip.Addr]bool{}}
}

// txn applies changes to the index tentatively: put changes a block, rollBack undoes
// one request, and finish undoes all and returns the changed blocks.
type txn struct {
	*Index
	now      time.Time
	original map[netip.Addr]*Block // the changed blocks as they were; nil: none
	undo     []undo                // of the request that is being served
	// granted are the addresses that requests of the batch were given: another one,
	// of the same pod or owner, does not take them over.
	granted map[netip.Addr]bool
}

type undo struct {
	base   netip.Addr
	before *Block // nil: none
}

// put changes a block.
func (t *txn) put(b Block) {
	b = b.forgetting(t.now, t.reuseAfter)
	var before *Block
	if b, ok := t.blocks[b.Base]; ok {
		was := b.block
		before = &was
	}
	if _, ok := t.original[b.Base]; !ok {
		t.original[b.Base] = before
	}
	t.undo = append(t.undo, undo{b.Base, before})
	t.Put(b, t.now)
}

func (t *txn) restore(base netip.Addr, before *Block) {
	if before == nil {
		t.Delete(base)
	} else {
		t.Put(*before, t.now)
	}
}

// finish takes all changes back and returns the changed blocks, sorted by name.
func (t *txn) finish() []Block {
	changed := make([]Block, 0, len(t.original))
	for base := range t.original {
		if b, ok := t.blocks[base]; ok {
			changed = append(changed, b.block)
		}
	}
	for base, before := range t.original {
		t.restore(base, before)
	}
	slices.SortFunc(changed, func(a, b Block) int { return a.Base.Compare(b.Base) })
	return changed
}

// serve grants all that r wants, or nothing.
func (t *txn) serve(r Request) Result {
	if newer, ok := t.newer(r); ok {
		return Result{Err: &SupersededError{Lease: newer}}
	}
	result, failedWant := t.attempt(r, nil)
	if failedWant < 0 {
		return result
	}
	// Each want took the best pool for itself; there may be another way.
	if pools, ok := t.assign(r); ok {
		if result, failedWant := t.attempt(r, pools); failedWant < 0 {
			return result
		}
	}
	return Result{Err: t.exhausted(r.Wants[failedWant])}
}

// newer returns a lease that another sandbox of the pod was given on this node
// after r arrived: r is of a sandbox that the runtime has given up.
func (t *txn) newer(r Request) (Lease, bool) {
	if r.Arrived.IsZero() {
		return Lease{}, false
	}
	for _, l := range t.OfPod(r.PodUID) {
		if l.State == InUse && l.ContainerID != r.ContainerID && l.Node == r.Node && l.Since.After(r.Arrived) {
			return l, true
		}
	}
	return Lease{}, false
}

// attempt grants all that r wants and returns -1; or changes nothing and returns
// the position of a want for which nothing is left. A new address for the want i
// comes from pools[i], where that is given.
func (t *txn) attempt(r Request, pools []string) (result Result, failedWant int) {
	t.undo = t.undo[:0]
	result.Grants = make([]Grant, 0, len(r.Wants))
	for i, w := range r.Wants {
		from := w.Pools
		if pools != nil {
			from = pools[i : i+1]
		}
		g, ok := t.grant(r, w, from)
		if !ok {
			t.rollBack()
			return Result{}, i
		}
		result.Grants = append(result.Grants, g)
	}
	result.RetainedReleased = t.releaseRetained(r)
	result.Blocks = t.dependsOn(result.Grants)
	for _, g := range result.Grants {
		t.granted[g.Addr] = true
	}
	return result, -1
}

// dependsOn returns the names of the blocks whose writes must succeed for the
// grants of the request that was just served.
func (t *txn) dependsOn(grants []Grant) []netip.Addr {
	var names []netip.Addr
	for _, u := range t.undo {
		names = append(names, u.base)
	}
	// A container that holds an address only since an earlier request of the same
	// batch depends on the same write.
	for _, g := range grants {
		base := inet.BlockOf(g.Addr)
		if l, ok := t.blocks[base].block.Lease(g.Addr); ok && g.Held && !t.isOriginal(l) {
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
func (t *txn) assign(r Request) ([]string, bool) {
	pools := make([]string, len(r.Wants))
	users := map[string][]int{} // pool → wants
	var place func(i int, visited map[string]bool) bool
	place = func(i int, visited map[string]bool) bool {
		w := r.Wants[i]
		for _, name := range w.Pools {
			if p, ok := t.pools[name]; ok && p.family == w.Family && int64(len(users[name])) < t.Usage(name).Free {
				pools[i], users[name] = name, append(users[name], i)
				return true
			}
		}
		for _, name := range w.Pools {
			if p, ok := t.pools[name]; !ok || p.family != w.Family || visited[name] {
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
		if _, has := t.reusable(r, w); !has && !place(i, map[string]bool{}) {
			return nil, false
		}
	}
	return pools, true
}

// rollBack takes the changes of the request back, and what then is as it was
// before the batch is not written.
func (t *txn) rollBack() {
	for _, u := range slices.Backward(t.undo) {
		t.restore(u.base, u.before)
	}
	for _, u := range t.undo {
		stored, now := t.original[u.base], t.blocks[u.base]
		if stored != nil && now != nil && slices.Equal(stored.Leases, now.block.Leases) {
			delete(t.original, u.base)
		}
	}
}

// isOriginal reports whether the lease was there before the batch.
func (t *txn) isOriginal(l Lease) bool {
	before, changed := t.original[inet.BlockOf(l.Addr)]
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
func (t *txn) grant(r Request, w Want, pools []string) (Grant, bool) {
	if l, ok := t.reusable(r, w); ok {
		if l.State == InUse && l.ContainerID == r.ContainerID {
			return Grant{w.Interface, w.Family, l.Addr, l.Pool, true}, true
		}
		return t.lease(r, w, l.Addr, l.Pool), true
	}
	for _, name := range pools {
		if p, ok := t.pools[name]; ok && p.family == w.Family {
			if a, ok := t.pick(p); ok {
				return t.lease(r, w, a, name), true
			}
		}
	}
	return Grant{}, false
}

// reusable returns the lease that w is to have: of the container itself, of another
// sandbox of the same pod, or fixed for the same owner.
func (t *txn) reusable(r Request, w Want) (Lease, bool) {
	for _, l := range t.Attached(Attachment{r.ContainerID, w.Interface}) {
		if inet.FamilyOf(l.Addr) == w.Family {
			return l, true
		}
	}
	for _, leases := range [][]Lease{t.OfPod(r.PodUID), t.FixedFor(r.FixedFor)} {
		for _, l := range leases {
			if l.Interface == w.Interface && inet.FamilyOf(l.Addr) == w.Family && t.usable(w, l) && !t.granted[l.Addr] {
				return l, true
			}
		}
	}
	return Lease{}, false
}

// usable reports whether the address of an earlier lease is in a pool of the want.
func (t *txn) usable(w Want, l Lease) bool {
	p, ok := t.pools[l.Pool]
	return ok && slices.Contains(w.Pools, l.Pool) && p.usable.Contains(l.Addr)
}

// pick returns the address of p that is to be handed out next, and false where
// none is left.
func (t *txn) pick(p *poolIndex) (netip.Addr, bool) {
	if b, ok := p.ownFree.first(); ok {
		return b.lowestFree(), true
	}
	if a, ok := p.firstUncreated(); ok {
		return a, true
	}
	if b, ok := p.othersFree.first(); ok {
		return b.lowestFree(), true
	}
	for _, q := range []*queue[*poolBlock]{&p.ownCooling, &p.othersCooling} {
		if b, ok := q.first(); ok {
			l, _ := b.longestReleased()
			return l.Addr, true
		}
	}
	return netip.Addr{}, false
}

func (b *poolBlock) lowestFree() netip.Addr { return lowest(b.block.Base, b.mask&b.free) }

// firstUncreated returns the lowest address in a block that nobody created, and false
// where there is no such block. The place to look from changes with every block
// that becomes known, so that a node that runs into blocks it did not know of
// does not follow their row.
func (p *poolIndex) firstUncreated() (netip.Addr, bool) {
	count := p.usable.BlockCount()
	if count == 0 {
		return netip.Addr{}, false
	}
	start := (p.start + uint64(len(p.blocks))*0x9e3779b97f4a7c15) % count
	n, ok := p.created.firstFree(start, count)
	if !ok {
		return netip.Addr{}, false
	}
	base, ok := p.usable.NthBlock(n)
	return lowest(base, p.usable.Mask(base)), ok
}

// lease leases a to the request, whoever had it.
func (t *txn) lease(r Request, w Want, a netip.Addr, pool string) Grant {
	base := inet.BlockOf(a)
	b, ok := t.Block(base)
	if !ok {
		b.Base = base
	}
	if b.Removable(t.now, 0) {
		b.Node = t.node // nobody has anything in it
	}
	t.put(b.with(Lease{
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
		Since: stamp(t.now),
	}))
	return Grant{Interface: w.Interface, Family: w.Family, Addr: a, Pool: pool}
}

// releaseRetained releases what is still retained for the owner of a request that
// was granted all it wants: addresses that it cannot use any more, and those of
// interfaces and IP versions that it has no more. It returns them as they were.
func (t *txn) releaseRetained(r Request) (given []Lease) {
	for _, l := range t.FixedFor(r.FixedFor) {
		if l.State != Retained {
			continue
		}
		b, _ := t.Block(inet.BlockOf(l.Addr))
		t.put(b.with(released(l.Addr, t.now)))
		given = append(given, l)
	}
	return given
}

func (t *txn) exhausted(w Want) *ExhaustedError {
	e := &ExhaustedError{Interface: w.Interface, Family: w.Family}
	for _, name := range w.Pools {
		e.Pools = append(e.Pools, PoolUsage{name, t.Usage(name)})
	}
	return e
}

func lowest(base netip.Addr, m inet.Mask) netip.Addr {
	return inet.BlockAddr(base, bits.TrailingZeros16(uint16(m)))
}
