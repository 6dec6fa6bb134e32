package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

const (
	// roundSize bounds how many requests are decided together.
	maxBatch = 64
	// commitTimeout bounds the writes of one batch.
	commitTimeout = 10 * time.Second
	// maxAttempts bounds how often a request is decided again after a conflict with
	// another writer. Each time the conflicting blocks are read again.
	maxAttempts = 32
	// maxLearned bounds the retries after the create of an existing block.
	// Each retry reads more regions, so no request needs as many.
	maxCreateConflicts = 32
	// youngLease is the age below which a lease needs no confirmation: the ADDs of
	// all interfaces of a pod come within it. Reclaim ends no lease younger than
	// reclaim.DefaultMinAge, which is far longer because its clock may differ; and
	// every ADD first reads the addresses that an owner took to another node.
	youngLease = time.Minute
	// precision is the precision of times in the store: a lease must survive a round
	// trip unchanged.
	precision = time.Second
)

// Allocator decides which addresses the pods of a node get, and commits the decision.
//
// It keeps the addresses of pools (SetUsable) and the blocks that concern the node;
// it reads other nodes' blocks when it needs them.
// All methods are safe for concurrent use.
type Allocator struct {
	node               string
	blocks             Blocks
	older              func(a, b string) bool
	now                func() time.Time
	log                *slog.Logger
	onRetainedReleased func(lease.Lease)
	observer           Observer
	// searchEvery is that of Config, the default set.
	searchEvery time.Duration

	// ctx ends with the allocator; batches, which serve many callers, run on it.
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu struct {
		sync.Mutex
		// index has the blocks that this node has read or written. A block in unknown
		// or inFlight may differ from the store's.
		index *lease.Index
		// loaded: the blocks of this node have been read. Nothing is granted before.
		loaded bool
		// unknown are the blocks whose stored content is unknown because a write of
		// them had no answer.
		unknown map[netip.Addr]struct{}
		// inFlight are the blocks that a batch is writing now. seenDuringWrite is the newest
		// version of each that was observed meanwhile; "" means a deletion.
		inFlight        map[netip.Addr]struct{}
		seenDuringWrite map[netip.Addr]string
		// regions are the reads of other nodes' blocks. Entries are never removed.
		regions map[netip.Prefix]*regionReads
		// queue are the requests for the next batch, in the order of their arrival.
		queue []*request
		// running: a goroutine drains the queue. It is true while the queue has requests.
		running bool
	}
}

// request is one entry of the queue: an allocation, or a change to leases.
type request struct {
	ctx        context.Context
	allocation lease.Request // allocation, when change is nil
	// change returns the blocks to write, based on the index; none if nothing changes.
	change          func(now time.Time) []lease.Block
	releases        []lease.Attachment // by the change
	attempts        int
	createConflicts int          // how often a block that was to be created existed
	done            chan outcome // has room for the one outcome
}

type outcome struct {
	grants           []lease.Grant
	retainedReleased []lease.Lease
	changed          bool // by a change
	err              error
}

// Config configures an Allocator.
type Config struct {
	// Node is the name of the node.
	Node string
	// ReuseAfter is for how long released addresses are reused last; 0 means lease.DefaultReuseAfter.
	ReuseAfter time.Duration
	Blocks     Blocks
	// Older reports whether a version of the store is older than another.
	Older    func(a, b string) bool
	Now      func() time.Time
	Log      *slog.Logger
	Observer Observer
	// SearchEvery is the shortest time between two reads of a region for requests whose
	// pools seem exhausted. They wait and share the read. 0 means DefaultSearchEvery, a
	// negative value no limit.
	SearchEvery time.Duration
	// OnRetainedReleased, unless nil, is called with each lease that was retained for an
	// owner and released because the owner got all its addresses without it.
	OnRetainedReleased func(lease.Lease)
}

// NewAllocator returns an allocator that knows nothing yet; Load must succeed
// before it allocates. Close ends it.
func NewAllocator(c Config) *Allocator {
	ctx, cancel := context.WithCancel(context.Background())
	a := &Allocator{
		node: c.Node, blocks: c.Blocks, older: c.Older, now: c.Now, log: c.Log, observer: c.Observer, onRetainedReleased: c.OnRetainedReleased,
		ctx: ctx, cancel: cancel, searchEvery: cmp.Or(c.SearchEvery, DefaultSearchEvery),
	}
	a.mu.index = lease.NewIndex(lease.Options{Node: c.Node, ReuseAfter: c.ReuseAfter})
	a.mu.unknown = map[netip.Addr]struct{}{}
	a.mu.inFlight = map[netip.Addr]struct{}{}
	a.mu.seenDuringWrite = map[netip.Addr]string{}
	a.mu.regions = map[netip.Prefix]*regionReads{}
	return a
}

// Close fails the queued requests, waits for the batch being written and returns
// after the last goroutine of the allocator has ended.
func (a *Allocator) Close() {
	a.cancel()
	a.workers.Wait()
}

// Load reads the blocks of the node. After a broken watch, call it again to catch up.
func (a *Allocator) Load(ctx context.Context) error {
	blocks, err := a.blocks.OfNode(ctx, a.node)
	if err != nil {
		return fmt.Errorf("read the blocks of node %s: %w", a.node, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for _, b := range blocks {
		a.put(b, now)
	}
	a.mu.loaded = true
	return nil
}

// put stores a block that was read, unless a batch is writing it or the index has a
// newer version. Reads and writes overtake each other, and a forgotten lease of this
// node would be a leak.
func (a *Allocator) put(b lease.Block, now time.Time) {
	if a.noteDuringWrite(b.Base, b.Version) {
		return
	}
	if known, ok := a.mu.index.Block(b.Base); ok && a.older(b.Version, known.Version) {
		return
	}
	if b.Damaged != "" {
		a.observer.Damaged()
		a.log.Error("SpiderIPBlock is corrupt; its addresses are out of service until it is fixed or deleted",
			"spideripblock", inet.BlockPrefix(b.Base), "err", b.Damaged)
	}
	delete(a.mu.unknown, b.Base)
	a.mu.index.Put(b, now)
}

// noteDuringWrite records version and returns true if a batch is writing the block.
// applyResults compares it with the written version and has the block read again if
// it is newer.
func (a *Allocator) noteDuringWrite(base netip.Addr, version string) bool {
	if _, busy := a.mu.inFlight[base]; !busy {
		return false
	}
	if seen, ok := a.mu.seenDuringWrite[base]; !ok || version == "" || seen != "" && a.older(seen, version) {
		a.mu.seenDuringWrite[base] = version
	}
	return true
}

// Observe stores a changed block, as read from the store.
func (a *Allocator) Observe(b lease.Block) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(b, a.now())
}

// ObserveDeleted removes a block that was deleted at a version.
func (a *Allocator) ObserveDeleted(base netip.Addr, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.mu.index.Block(base); ok && !a.older(version, known.Version) {
		a.drop(base)
	}
}

// ObserveAll removes the blocks of this node that are not in existing, a complete list
// at a version. It makes up for deletions that a broken watch missed.
func (a *Allocator) ObserveAll(existing map[netip.Addr]bool, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var gone []netip.Addr
	for b := range a.mu.index.Blocks() {
		if a.concerns(b) && !existing[b.Base] && !a.older(version, b.Version) {
			gone = append(gone, b.Base)
		}
	}
	for _, base := range gone {
		a.drop(base)
	}
}

// drop forgets a block that does not exist, unless a batch is writing it.
func (a *Allocator) drop(base netip.Addr) {
	if !a.noteDuringWrite(base, "") {
		delete(a.mu.unknown, base)
		a.mu.index.Delete(base)
	}
}

// Knows reports whether a block seen at version need not be read: the allocator has
// that version or a newer one, or is writing the block and compares afterwards.
func (a *Allocator) Knows(base netip.Addr, version string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.noteDuringWrite(base, version) {
		return true
	}
	known, ok := a.mu.index.Block(base)
	return ok && (known.Version == version || a.older(version, known.Version))
}

// SetUsable sets the addresses that a pool hands out; the empty set removes the pool.
// Its leases stay.
func (a *Allocator) SetUsable(pool string, usable inet.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if usable.IsEmpty() {
		a.mu.index.DeletePool(pool)
		return
	}
	a.mu.index.SetPool(pool, usable)
}

// Loaded reports whether the blocks of the node are known.
func (a *Allocator) Loaded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.loaded
}

// Attached returns the leases that the attachment holds.
func (a *Allocator) Attached(at lease.Attachment) []lease.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.index.Attached(at)
}

// OfPod returns the leases, in use or retained, of the pod with that UID.
func (a *Allocator) OfPod(uid string) []lease.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.index.OfPod(uid)
}

// addressesOf returns the addresses of the pod and those that are fixed for the owner.
func (a *Allocator) addressesOf(podUID string, owner lease.Owner) map[netip.Addr]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	addrs := map[netip.Addr]bool{}
	for _, l := range append(a.mu.index.OfPod(podUID), a.mu.index.FixedFor(owner)...) {
		addrs[l.Addr] = true
	}
	return addrs
}

// HeldBy returns the leases in use on this node for which keep returns true.
func (a *Allocator) HeldBy(keep func(lease.Lease) bool) []lease.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	var leases []lease.Lease
	for b := range a.mu.index.Blocks() {
		for _, l := range b.Leases {
			if l.State == lease.InUse && l.Node == a.node && keep(l) {
				leases = append(leases, l)
			}
		}
	}
	return leases
}

// Allocate grants everything the request wants, or returns an error: a
// *lease.ExhaustedError if no address is left, or an error of the store. After a
// store error the leases may or may not exist; call Release.
func (a *Allocator) Allocate(ctx context.Context, req lease.Request) ([]lease.Grant, error) {
	if len(req.Wants) == 0 {
		return nil, nil
	}
	searched := newSearch()
	for {
		o := a.submit(&request{ctx: ctx, allocation: req, done: make(chan outcome, 1)})
		var exhausted *lease.ExhaustedError
		if !errors.As(o.err, &exhausted) {
			if o.err == nil && a.onRetainedReleased != nil {
				for _, l := range o.retainedReleased {
					a.onRetainedReleased(l)
				}
			}
			if held, err := a.confirm(ctx, req, o.grants); err != nil {
				return nil, err
			} else if !held {
				continue
			}
			return o.grants, o.err
		}
		// No address is left as far as this node knows. Before the pod is refused,
		// read the blocks of other nodes: they may have released some.
		found, err := a.search(ctx, searched, exhausted)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, exhausted
		}
	}
}

// confirm reads the blocks of the leases that the container held before the request
// (lease.Grant.Held). No write has checked them, so reclaim or another node may have
// ended them meanwhile. It returns false if one has ended; the index then says so too.
func (a *Allocator) confirm(ctx context.Context, req lease.Request, grants []lease.Grant) (bool, error) {
	read := map[netip.Addr]lease.Block{}
	for _, g := range grants {
		base := inet.BlockOf(g.Addr)
		if !g.Held || a.isYoung(g.Addr) {
			continue
		}
		if _, ok := read[base]; !ok {
			b, err := a.readBlock(ctx, base)
			if err != nil {
				return false, err
			}
			read[base] = b
		}
		l, _ := read[base].Lease(g.Addr)
		if l.State != lease.InUse || l.Attachment != (lease.Attachment{ContainerID: req.ContainerID, Interface: g.Interface}) {
			return false, nil
		}
	}
	return true, nil
}

// isYoung reports whether the lease of the address, as it is known, needs no
// confirmation.
func (a *Allocator) isYoung(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, _ := a.mu.index.Block(inet.BlockOf(addr))
	l, ok := b.Lease(addr)
	return ok && a.now().Sub(l.Since) < youngLease
}

// release ends the leases of the attachments. It returns an error if the release could
// not be committed, or if the leases of this node are unknown.
func (a *Allocator) release(ctx context.Context, attachments ...lease.Attachment) error {
	return a.submit(&request{ctx: ctx, releases: attachments, done: make(chan outcome, 1), change: func(now time.Time) []lease.Block {
		return a.mu.index.Release(now, attachments...)
	}}).err
}

// rollBack ends the leases of the pod's container except for the addresses in
// previously.
func (a *Allocator) rollBack(ctx context.Context, podUID, container string, previously map[netip.Addr]bool) error {
	_, err := a.change(ctx, func(now time.Time) []lease.Block {
		var taken []lease.Lease
		for _, l := range a.mu.index.OfPod(podUID) {
			if l.State == lease.InUse && l.ContainerID == container && !previously[l.Addr] {
				taken = append(taken, l)
			}
		}
		return a.mu.index.Reclaim(now, taken...)
	})
	return err
}

// Quarantine takes an address of the attachment out of service for duration, because
// a foreign host with the hardware address mac answered for it. It returns false if
// the attachment does not hold the address.
func (a *Allocator) Quarantine(ctx context.Context, at lease.Attachment, addr netip.Addr, mac string, duration time.Duration) (bool, error) {
	return a.change(ctx, func(now time.Time) []lease.Block {
		b, _ := a.mu.index.Block(inet.BlockOf(addr))
		changed, ok := b.Quarantine(addr, at, mac, now, now.Add(duration))
		if l, _ := b.Lease(addr); !ok || l.Node != a.node {
			return nil
		}
		return []lease.Block{changed}
	})
}

// change commits the blocks that f returns, and reports whether there were any.
func (a *Allocator) change(ctx context.Context, f func(time.Time) []lease.Block) (bool, error) {
	o := a.submit(&request{ctx: ctx, change: f, done: make(chan outcome, 1)})
	return o.changed, o.err
}

func (a *Allocator) submit(r *request) outcome {
	a.mu.Lock()
	if a.ctx.Err() != nil {
		a.mu.Unlock()
		return outcome{err: a.stopping()}
	}
	a.mu.queue = append(a.mu.queue, r)
	if !a.mu.running {
		a.mu.running = true
		a.workers.Add(1)
		go a.drain()
	}
	a.mu.Unlock()
	select {
	case o := <-r.done:
		return o
	case <-r.ctx.Done():
		return outcome{err: context.Cause(r.ctx)}
	}
}

// stopping is the error of requests when the allocator's context has ended.
func (a *Allocator) stopping() error { return fmt.Errorf("the agent is stopping: %w", a.ctx.Err()) }

// drain runs batches until the queue is empty.
func (a *Allocator) drain() {
	defer a.workers.Done()
	for {
		a.mu.Lock()
		if len(a.mu.queue) == 0 {
			a.mu.running = false
			a.mu.Unlock()
			return
		}
		size := min(len(a.mu.queue), maxBatch)
		batch := a.mu.queue[:size:size]
		a.mu.queue = a.mu.queue[size:]
		a.mu.Unlock()

		live := batch[:0:0]
		for _, r := range batch {
			switch {
			case a.ctx.Err() != nil:
				r.done <- outcome{err: a.stopping()}
			case r.ctx.Err() != nil:
				r.done <- outcome{err: context.Cause(r.ctx)}
			default:
				live = append(live, r)
			}
		}
		if retry := a.runBatch(live); len(retry) > 0 {
			a.mu.Lock()
			a.mu.queue = append(retry, a.mu.queue...)
			a.mu.Unlock()
		}
	}
}
