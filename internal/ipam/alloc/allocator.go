package alloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

const (
	// maxBatch bounds how many requests are decided together.
	maxBatch = 64
	// commitTimeout bounds the writes of one batch.
	commitTimeout = 10 * time.Second
	// MaxAttempts bounds how often a request is decided again after a conflict with
	// another writer. Each time the conflicting blocks are read again.
	MaxAttempts = 32
	// youngLease is the age below which a lease that this process granted needs no
	// confirmation: the ADDs of all interfaces of a pod come within it. Reclaim ends no
	// lease younger than reclaim.DefaultMinAge, and every ADD first reads the addresses
	// that an owner took to another node.
	youngLease = time.Minute
	// unreadLimit is for how long a block may be unreadable before the agent is not ready.
	unreadLimit = 10 * time.Second
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
	config Config

	// ctx ends with the allocator; batches, which serve many callers, run on it.
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu struct {
		sync.Mutex
		// index has the blocks that this node has read or written. A block in unread
		// or inFlight may differ from the store's.
		index *lease.Index
		// loaded: the blocks of this node have been read. Nothing is granted before.
		loaded bool
		// unread are the blocks whose stored content is in doubt, since when: a write had
		// no answer or conflicted. No new address of them is granted
		// (lease.Block.Unread), and requests with a lease in them wait.
		unread map[netip.Addr]time.Time
		// unanswered are the writes without an answer. All writes of a block have the
		// version in the index, so each may still arrive (lease.Block.Unconfirmed).
		unanswered map[netip.Addr][]lease.Block
		// avoided are the blocks without new grants (lease.Block.Avoided), since when.
		avoided map[netip.Addr]time.Time
		// inFlight are the blocks that a batch is writing now.
		inFlight map[netip.Addr]observed
		// holdings are the leases in use and the former sandboxes of this node in the index.
		holdings map[holdingKey]holding
		// lost are holders of this node that the store lacks, although this node has not
		// ended them. The index keeps them. See keepOwn.
		lost map[holdingKey]lease.Lease
		// order numbers the arrivals of requests and the grants.
		order uint64
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
	allocation lease.Request // when change is nil
	arrived    uint64        // of an allocation, see Arrive
	// change returns the blocks to write, based on the index; none if nothing changes.
	change   func(now time.Time) []lease.Block
	releases []lease.Attachment // by the change
	// concerns reports whether the request is about a holder of the lease. It waits while
	// the block of such a lease is in doubt.
	concerns func(lease.Lease) bool
	attempts int
	refusal  refusal
	done     chan outcome // has room for the one outcome
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
}

// New returns an allocator that knows nothing yet; Load must succeed
// before it allocates. Close ends it.
func New(c Config) *Allocator {
	ctx, cancel := context.WithCancel(context.Background())
	c.SearchEvery = cmp.Or(c.SearchEvery, DefaultSearchEvery)
	a := &Allocator{config: c, ctx: ctx, cancel: cancel}
	a.mu.index = lease.NewIndex(lease.Options{Node: c.Node, ReuseAfter: c.ReuseAfter})
	a.mu.unread = map[netip.Addr]time.Time{}
	a.mu.unanswered = map[netip.Addr][]lease.Block{}
	a.mu.inFlight = map[netip.Addr]observed{}
	a.mu.avoided = map[netip.Addr]time.Time{}
	a.mu.holdings = map[holdingKey]holding{}
	a.mu.lost = map[holdingKey]lease.Lease{}
	a.mu.regions = map[netip.Prefix]*regionReads{}
	return a
}

// Close fails the queued requests, waits for the batch being written and returns
// after the last goroutine of the allocator has ended.
func (a *Allocator) Close() {
	a.cancel()
	a.workers.Wait()
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

// FixedFor returns the leases, in use or retained, that are fixed for the owner. See ReadFixed.
func (a *Allocator) FixedFor(owner lease.Owner) []lease.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.index.FixedFor(owner)
}

// AddressesOf returns the addresses of the pod and those that are fixed for the owner.
func (a *Allocator) AddressesOf(podUID string, owner lease.Owner) map[netip.Addr]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	addrs := map[netip.Addr]bool{}
	for _, l := range append(a.mu.index.OfPod(podUID), a.mu.index.FixedFor(owner)...) {
		addrs[l.Addr] = true
	}
	return addrs
}

// HeldFor returns the leases in use and the former sandboxes of this node, as leases,
// that this process has known for at least age.
func (a *Allocator) HeldFor(age time.Duration) []lease.Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.config.Now()
	var leases []lease.Lease
	for key, h := range a.mu.holdings {
		if now.Sub(h.since) < age {
			continue
		}
		b, _ := a.mu.index.Block(inet.BlockOf(key.addr))
		if l, ok := b.HolderOf(key.addr, key.at); ok {
			leases = append(leases, l)
		}
	}
	slices.SortFunc(leases, func(a, b lease.Lease) int { return a.Addr.Compare(b.Addr) })
	return leases
}

// FormerOf returns the former sandboxes of an address.
func (a *Allocator) FormerOf(addr netip.Addr) []lease.Former {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, _ := a.mu.index.Block(inet.BlockOf(addr))
	return b.FormerOf(addr)
}

// Arrive returns the place of a request in the order of arrivals and grants.
func (a *Allocator) Arrive() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.order++
	return a.mu.order
}

// SupersededError means that another sandbox of the pod got an address after the
// request arrived. The runtime has then abandoned the sandbox of the request.
type SupersededError struct{ lease lease.Lease }

func (e *SupersededError) Error() string {
	return fmt.Sprintf("sandbox %s of pod %s is newer and already has address %s", e.lease.ContainerID, e.lease.Pod, e.lease.Addr)
}

// Allocate grants everything the request wants, or returns an error: a
// *lease.ExhaustedError if no address is left, a *lease.CrowdedError, a
// *SupersededError, or an error of the store. After a store error the leases may or may
// not exist; call Release. arrived is the result of Arrive.
//
// retainedReleased are the leases, also with an error, that were retained for the owner
// and released because the owner got all its addresses without them.
func (a *Allocator) Allocate(ctx context.Context, req lease.Request, arrived uint64) (grants []lease.Grant, retainedReleased []lease.Lease, err error) {
	if len(req.Wants) == 0 {
		return nil, nil, nil
	}
	searched := &search{began: map[netip.Prefix]bool{}}
	for {
		o := a.submit(&request{ctx: ctx, allocation: req, arrived: arrived, done: make(chan outcome, 1), concerns: func(l lease.Lease) bool {
			return l.ContainerID == req.ContainerID || l.PodUID == req.PodUID || !req.FixedFor.IsZero() && l.FixedFor == req.FixedFor
		}})
		var exhausted *lease.ExhaustedError
		if !errors.As(o.err, &exhausted) {
			retainedReleased = append(retainedReleased, o.retainedReleased...)
			if held, err := a.confirm(ctx, req, o.grants); err != nil {
				return nil, retainedReleased, err
			} else if !held {
				continue
			}
			return o.grants, retainedReleased, o.err
		}
		// No address is left as far as this node knows. Before the pod is refused,
		// read the blocks of other nodes: they may have released some.
		found, err := a.search(ctx, searched, exhausted)
		if err != nil {
			return nil, retainedReleased, err
		}
		if !found {
			return nil, retainedReleased, exhausted
		}
	}
}

// confirm reads the blocks of the leases that the container held before the request
// (lease.Grant.Held). No write has checked them, so reclaim or another node may have
// ended them meanwhile. It returns false if one has ended; the index then says so too.
func (a *Allocator) confirm(ctx context.Context, req lease.Request, grants []lease.Grant) (bool, error) {
	read := map[netip.Addr]lease.Block{}
	for _, g := range grants {
		base, at := inet.BlockOf(g.Addr), lease.Attachment{ContainerID: req.ContainerID, Interface: g.Interface}
		if !g.Held || a.isYoung(g.Addr, at) {
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
		if l.State != lease.InUse || l.Attachment != at {
			return false, nil
		}
	}
	return true, nil
}

// isYoung reports whether this process granted the lease so recently that it needs no
// confirmation.
func (a *Allocator) isYoung(addr netip.Addr, at lease.Attachment) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.mu.holdings[holdingKey{addr, at}]
	return h.order > 0 && a.config.Now().Sub(h.since) < youngLease
}

// Release ends the leases of the attachments. It returns an error if the release could
// not be committed, or if the leases of this node are unknown.
func (a *Allocator) Release(ctx context.Context, attachments ...lease.Attachment) error {
	ofAttachments := func(l lease.Lease) bool { return slices.Contains(attachments, l.Attachment) }
	return a.submit(&request{ctx: ctx, releases: attachments, concerns: ofAttachments, done: make(chan outcome, 1), change: func(now time.Time) []lease.Block {
		return a.mu.index.Release(now, attachments...)
	}}).err
}

// RollBack ends the leases of the pod's container except for the addresses in
// previously.
func (a *Allocator) RollBack(ctx context.Context, podUID, container string, previously map[netip.Addr]bool) error {
	ofPod := func(l lease.Lease) bool { return l.PodUID == podUID }
	_, err := a.change(ctx, ofPod, func(now time.Time) []lease.Block {
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
	ofAttachment := func(l lease.Lease) bool { return l.Attachment == at }
	return a.change(ctx, ofAttachment, func(now time.Time) []lease.Block {
		b, _ := a.mu.index.Block(inet.BlockOf(addr))
		changed, ok := b.Quarantine(addr, at, mac, now, now.Add(duration))
		if l, _ := b.Lease(addr); !ok || l.Node != a.config.Node {
			return nil
		}
		return []lease.Block{changed}
	})
}

// EndQuarantine releases an address that Quarantine has just taken out of service.
func (a *Allocator) EndQuarantine(ctx context.Context, addr netip.Addr) error {
	_, err := a.change(ctx, func(l lease.Lease) bool { return l.Addr == addr }, func(now time.Time) []lease.Block {
		b, _ := a.mu.index.Block(inet.BlockOf(addr))
		if l, _ := b.Lease(addr); l.State == lease.Quarantined {
			return a.mu.index.Reclaim(now, l)
		}
		return nil
	})
	return err
}

// change commits the blocks that f returns, and reports whether there were any.
func (a *Allocator) change(ctx context.Context, concerns func(lease.Lease) bool, f func(time.Time) []lease.Block) (bool, error) {
	o := a.submit(&request{ctx: ctx, concerns: concerns, change: f, done: make(chan outcome, 1)})
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
		size := nextBatch(a.mu.queue)
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
