package lease

import (
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

func (x *Index) newTxn(now time.Time) *txn {
	return &txn{Index: x, now: now, original: map[netip.Addr]before{}, granted: map[netip.Addr]bool{}}
}

// txn changes the index tentatively: put changes a block, rollBack undoes the current
// request, and finish undoes everything and returns the changed blocks.
type txn struct {
	*Index
	now      time.Time
	original map[netip.Addr]before // changed blocks before the first change
	undo     []undo                // of the current request
	// granted are the addresses granted in this batch. Another request of the same
	// pod or owner must not take them over.
	granted map[netip.Addr]bool
}

// before is a block before a change.
type before struct {
	block *Block // nil: new block
	seen  Sightings
}

type undo struct {
	base netip.Addr
	before
}

// put changes a block.
func (t *txn) put(b Block) {
	was := before{seen: t.seen(b.Base)}
	b = b.forgetting(was.seen, t.now, t.reuseAfter)
	if b, ok := t.blocks[b.Base]; ok {
		block := b.block
		was.block = &block
	}
	if _, ok := t.original[b.Base]; !ok {
		t.original[b.Base] = was
	}
	t.undo = append(t.undo, undo{b.Base, was})
	t.Put(b, t.now)
}

func (t *txn) restore(base netip.Addr, was before) {
	if was.block == nil {
		t.Delete(base)
	} else {
		t.Index.put(*was.block, was.seen, t.now)
	}
}

// finish undoes all changes and returns the changed blocks, sorted by name.
func (t *txn) finish() []Block {
	changed := make([]Block, 0, len(t.original))
	for base := range t.original {
		if b, ok := t.blocks[base]; ok {
			changed = append(changed, b.block)
		}
	}
	for base, was := range t.original {
		t.restore(base, was)
	}
	slices.SortFunc(changed, func(a, b Block) int { return a.Base.Compare(b.Base) })
	return changed
}

// serve grants all that r wants, or nothing.
func (t *txn) serve(r Request) Result {
	if err := t.crowded(r); err != nil {
		return Result{Err: err}
	}
	if other, ok := t.inUse(r); ok {
		return Result{Err: &InUseError{Lease: other}}
	}
	result, failedWant := t.attempt(r, nil)
	if failedWant < 0 {
		return result
	}
	// Each want took its own best pool; another assignment may serve all of them.
	if pools, ok := t.assign(r); ok {
		if result, failedWant := t.attempt(r, pools); failedWant < 0 {
			return result
		}
	}
	return Result{Err: t.exhausted(r.Wants[failedWant])}
}

// crowded returns a *CrowdedError if r would take over an address with too many former
// sandboxes.
func (t *txn) crowded(r Request) error {
	taken := map[netip.Addr]int{} // addresses of r that change hands, by block
	for _, w := range r.Wants {
		l, ok := t.reusable(r, w)
		if !ok || l.State != InUse || l.ContainerID == r.ContainerID {
			continue
		}
		b, _ := t.Block(inet.BlockOf(l.Addr))
		if taken[b.Base]++; len(b.Former)+taken[b.Base] > MaxFormer {
			return &CrowdedError{Addr: l.Addr, Former: b.Former}
		}
	}
	return nil
}

// inUse returns a lease in use by another pod that r would take over without the right
// to do so.
func (t *txn) inUse(r Request) (Lease, bool) {
	for _, w := range r.Wants {
		l, ok := t.reusable(r, w)
		if ok && l.State == InUse && l.PodUID != r.PodUID && !slices.Contains(r.Replaces, l.PodUID) {
			return l, true
		}
	}
	return Lease{}, false
}

// attempt grants all wants of r and returns -1, or changes nothing and returns the
// position of a want without a free address. If pools is not nil, a new address for
// want i comes from pools[i].
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

// dependsOn returns the names of the blocks to write for the grants of the current
// request.
func (t *txn) dependsOn(grants []Grant) []netip.Addr {
	var names []netip.Addr
	for _, u := range t.undo {
		names = append(names, u.base)
	}
	// If the container got the address in an earlier request of this batch, the grant
	// depends on the same write.
	for _, g := range grants {
		base := inet.BlockOf(g.Addr)
		if l, ok := t.blocks[base].block.Lease(g.Addr); ok && g.Held && !t.isOriginal(l) {
			names = append(names, base)
		}
	}
	slices.SortFunc(names, netip.Addr.Compare)
	return slices.Compact(names)
}

// assign chooses a pool for each want of r in need of a new address, so that all of
// them get one. It returns false if this is impossible. Wants with an address get
// "". It is bipartite matching by augmenting paths (Kuhn): a want with full pools
// moves another want to another of that want's pools.
func (t *txn) assign(r Request) ([]string, bool) {
	pools := make([]string, len(r.Wants))
	users := map[string][]int{} // pool → wants
	candidates, free := t.withFree(r.Wants)
	var place func(i int, visited map[string]bool) bool
	place = func(i int, visited map[string]bool) bool {
		for _, name := range candidates[i] {
			if int64(len(users[name])) < free[name] {
				pools[i], users[name] = name, append(users[name], i)
				return true
			}
		}
		for _, name := range candidates[i] {
			if visited[name] {
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

// withFree returns the pools of each want that have a free address, and their number of
// free addresses. With thousands of full pools, the matching would take seconds.
func (t *txn) withFree(wants []Want) (candidates [][]string, free map[string]int64) {
	free = map[string]int64{}
	for _, w := range wants {
		var some []string
		for _, name := range w.Pools {
			n, known := free[name]
			if !known {
				n = t.Usage(name).Free
				free[name] = n
			}
			if n > 0 && t.pools[name].family == w.Family {
				some = append(some, name)
			}
		}
		candidates = append(candidates, some)
	}
	return candidates, free
}

// rollBack undoes the changes of the current request. A block without any other
// change of the batch is not written.
func (t *txn) rollBack() {
	for _, u := range slices.Backward(t.undo) {
		t.restore(u.base, u.before)
	}
	for _, u := range t.undo {
		stored, now := t.original[u.base].block, t.blocks[u.base]
		if stored != nil && now != nil && slices.Equal(stored.Leases, now.block.Leases) && slices.Equal(stored.Former, now.block.Former) {
			delete(t.original, u.base)
		}
	}
}

// isOriginal reports whether the lease existed before the batch.
func (t *txn) isOriginal(l Lease) bool {
	stored, changed := t.original[inet.BlockOf(l.Addr)]
	if !changed {
		return true
	}
	if stored.block == nil {
		return false
	}
	was, _ := stored.block.Lease(l.Addr)
	return was == l
}

// grant gives w its present or former address, or else one of the pools.
func (t *txn) grant(r Request, w Want, pools []string) (Grant, bool) {
	if l, ok := t.reusable(r, w); ok {
		b, _ := t.Block(inet.BlockOf(l.Addr))
		held := l.State == InUse && l.ContainerID == r.ContainerID
		if held && !b.Unconfirmed {
			return Grant{w.Interface, w.Family, l.Addr, l.Pool, true}, true
		}
		g := t.lease(r, w, l.Addr, l.Pool)
		g.Held = held
		return g, true
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

// reusable returns the lease to reuse for w: of the container itself, of another
// sandbox of the same pod, or fixed for the same owner.
func (t *txn) reusable(r Request, w Want) (Lease, bool) {
	for _, l := range t.Attached(Attachment{r.ContainerID, w.Interface}) {
		if inet.FamilyOf(l.Addr) == w.Family {
			return l, true
		}
	}
	for _, leases := range [][]Lease{t.OfPod(r.PodUID), t.FixedFor(r.FixedFor)} {
		for _, l := range leases {
			if l.Interface == w.Interface && inet.FamilyOf(l.Addr) == w.Family && t.usable(r, w, l) && !t.granted[l.Addr] {
				return l, true
			}
		}
	}
	return Lease{}, false
}

// usable reports whether a pool of the want still has the address of the lease, and no
// sandbox of another owner may still use it.
func (t *txn) usable(r Request, w Want, l Lease) bool {
	b, _ := t.Block(inet.BlockOf(l.Addr))
	p, ok := t.pools[l.Pool]
	return ok && b.MayHave(l.Addr, r.PodUID, r.FixedFor) && slices.Contains(w.Pools, l.Pool) && p.usable.Contains(l.Addr)
}

// pick returns the next address of p to grant, and false if none is left.
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

// firstUncreated returns the lowest usable address of a block not yet created, and
// false without such a block. The starting point changes with every known block, so
// that a node hitting unknown blocks of another node does not follow them one by
// one.
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

// lease leases a to the request, replacing any earlier lease.
func (t *txn) lease(r Request, w Want, a netip.Addr, pool string) Grant {
	base := inet.BlockOf(a)
	b, ok := t.Block(base)
	if !ok {
		b.Base = base
	}
	if b.Removable(t.seen(base), t.now, 0) {
		b.Node = t.node // adopt an empty block
	}
	since := stamp(t.now)
	if l, ok := b.Lease(a); ok && b.Unconfirmed && !since.After(l.Since) {
		since = l.Since.Add(time.Second) // the store drops a write without a change
	}
	b.Unconfirmed = false // this write makes the late one fail
	t.put(b.HandOver(Lease{
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
		Since: since,
	}))
	return Grant{Interface: w.Interface, Family: w.Family, Addr: a, Pool: pool}
}

// releaseRetained releases the addresses still retained for the owner of a fully
// granted request: addresses no longer in its pools, or of former interfaces or IP
// families. It returns the former leases.
func (t *txn) releaseRetained(r Request) (former []Lease) {
	for _, l := range t.FixedFor(r.FixedFor) {
		if l.State != Retained {
			continue
		}
		b, _ := t.Block(inet.BlockOf(l.Addr))
		t.put(b.With(released(l.Addr, t.now)))
		former = append(former, l)
	}
	return former
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
