package alloc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// observed is the newest change by another writer that was seen while a batch wrote the
// block; the zero value is none.
type observed struct {
	any     bool
	version string // "": the block was deleted
}

// holdingKey names a lease in use or a former sandbox of this node.
type holdingKey struct {
	addr netip.Addr
	at   lease.Attachment
}

// holding is what this process knows of a holder. It compares times of its own clock
// only: the times in a lease may come from another boot, and a clock may be set back.
type holding struct {
	since time.Time // when this process first knew it
	order uint64    // place of the grant among arrivals and grants; 0: an earlier process granted it
}

// Load reads the blocks of the node.
func (a *Allocator) Load(ctx context.Context) error {
	a.mu.Lock()
	was := map[netip.Addr]string{}
	for b := range a.mu.index.Blocks() {
		was[b.Base] = b.Version
	}
	a.mu.Unlock()
	blocks, err := a.config.Blocks.OfNode(ctx, a.config.Node)
	if err != nil {
		return fmt.Errorf("read the blocks of node %s: %w", a.config.Node, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.config.Now()
	for _, b := range blocks {
		if !a.mu.loaded && b.Damaged == "" {
			// An earlier process of this agent may have left a write on its way.
			a.mu.unanswered[b.Base] = []lease.Block{b}
		}
		a.take(b, was[b.Base], now)
	}
	a.mu.loaded = true
	return nil
}

// take stores a block as a read returned it. was is the version in the index when the
// read began. The read is newer than that, even with a lower version: a restore of etcd
// from a backup sets versions back. Against a version that came into the index since
// then, the higher version wins.
func (a *Allocator) take(b lease.Block, was string, now time.Time) {
	if a.noteDuringWrite(b.Base, b.Version) {
		return
	}
	known, _ := a.mu.index.Block(b.Base)
	if known.Version != was && a.config.Older(b.Version, known.Version) {
		return
	}
	if b.Damaged != "" {
		a.config.Observer.Damaged()
		a.config.Log.Error("SpiderIPBlock is corrupt; its addresses are out of service until it is fixed or deleted",
			"spideripblock", inet.BlockPrefix(b.Base), "err", b.Damaged)
	} else {
		b = a.keepOwn(known, b)
	}
	delete(a.mu.unread, b.Base)
	if late := a.mu.unanswered[b.Base]; len(late) > 0 && late[0].Version == b.Version {
		b.Unconfirmed = true
	} else {
		delete(a.mu.unanswered, b.Base)
	}
	a.store(b, now)
}

// takeAbsence is take for a block that a read did not find.
func (a *Allocator) takeAbsence(base netip.Addr, was string, now time.Time) {
	if a.noteDuringWrite(base, "") {
		return
	}
	known, ok := a.mu.index.Block(base)
	if known.Version != was {
		return
	}
	delete(a.mu.unread, base)
	kept := a.keepOwn(known, lease.Block{Base: base, Node: a.config.Node})
	delete(a.mu.unanswered, base)
	if len(kept.Leases)+len(kept.Former) > 0 {
		a.store(kept, now)
	} else if ok {
		a.forget(base)
	}
}

// keepOwn returns block b, as the store has it, with the holders of this node that the
// index has and b lacks, although this node has not ended them: another client, or a
// restore of etcd, removed them. Nothing else gets their addresses here, and RestoreLost
// puts them back.
func (a *Allocator) keepOwn(known, b lease.Block) lease.Block {
	for _, key := range a.holdingsIn(known) {
		l, _ := known.HolderOf(key.addr, key.at)
		if b.Holds(l) || a.mayHaveEnded(l) {
			continue
		}
		a.mu.lost[key] = l
		stored, _ := b.Lease(l.Addr)
		// What this node knows of its own sandboxes is newer than what a backup says.
		isOthers := (stored.State == lease.InUse || stored.State == lease.Retained) && stored.Node != a.config.Node || stored.State == lease.Withheld
		if !l.OfFormer() && !isOthers && b.MayHave(l.Addr, l.PodUID, l.FixedFor) {
			b = b.HandOver(l)
		} else {
			b = b.Remember(l) // a former sandbox, or the address has, or had, another holder
		}
		b.Unconfirmed = true
	}
	return b
}

// mayHaveEnded reports whether a write of this node without an answer ended the lease.
func (a *Allocator) mayHaveEnded(l lease.Lease) bool {
	return slices.ContainsFunc(a.mu.unanswered[inet.BlockOf(l.Addr)], func(late lease.Block) bool { return !late.Holds(l) })
}

// store replaces a block in the index, and keeps track of the node's holders in it.
func (a *Allocator) store(b lease.Block, now time.Time) {
	old, _ := a.mu.index.Block(b.Base)
	a.mu.index.Put(a.keepAvoiding(b), now)
	current := a.holdingsIn(b)
	for _, key := range a.holdingsIn(old) {
		if !slices.Contains(current, key) {
			delete(a.mu.holdings, key)
		}
	}
	for _, key := range current {
		if _, ok := a.mu.holdings[key]; !ok {
			a.mu.holdings[key] = holding{since: now}
		}
	}
}

// forget removes a block from the index.
func (a *Allocator) forget(base netip.Addr) {
	old, _ := a.mu.index.Block(base)
	for _, key := range a.holdingsIn(old) {
		delete(a.mu.holdings, key)
	}
	a.mu.index.Delete(base)
	if b := a.keepAvoiding(lease.Block{Base: base}); b.Avoided {
		a.mu.index.Put(b, a.config.Now())
	}
}

func (a *Allocator) holdingsIn(b lease.Block) []holdingKey {
	var keys []holdingKey
	for _, l := range b.Leases {
		if l.State == lease.InUse && l.Node == a.config.Node {
			keys = append(keys, holdingKey{l.Addr, l.Attachment})
		}
	}
	for _, f := range b.Former {
		if f.Node == a.config.Node {
			keys = append(keys, holdingKey{f.Addr, f.Attachment})
		}
	}
	return keys
}

// markUnread notes that the stored block may differ from the index.
func (a *Allocator) markUnread(base netip.Addr, now time.Time) {
	b, _ := a.mu.index.Block(base)
	b.Base, b.Unread = base, true
	a.mu.index.Put(b, now)
	if _, ok := a.mu.unread[base]; !ok {
		a.mu.unread[base] = now
	}
}

// noteDuringWrite records version and returns true if a batch is writing the block.
// applyResults compares it with the written version and has the block read again if
// it is newer.
func (a *Allocator) noteDuringWrite(base netip.Addr, version string) bool {
	seen, busy := a.mu.inFlight[base]
	if busy && (!seen.any || version == "" || seen.version != "" && a.config.Older(seen.version, version)) {
		a.mu.inFlight[base] = observed{true, version}
	}
	return busy
}

// ObserveDeleted learns from the watch that a block was deleted at a version, or no
// longer concerns this node.
func (a *Allocator) ObserveDeleted(base netip.Addr, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.mu.index.Block(base)
	switch {
	case a.noteDuringWrite(base, ""), !ok, a.config.Older(version, known.Version):
	case len(a.holdingsIn(known)) > 0:
		a.markUnread(base, a.config.Now())
	default:
		delete(a.mu.unread, base)
		a.forget(base)
	}
}

// Outdated returns the blocks to read (Read) after a complete list of the blocks of this
// node: those with another version than the list says, and those that the list lacks.
//
// If the version of the list is older than a known block, etcd was restored from a
// backup. It then uses versions again for other content, so Outdated forgets the other
// blocks: a write based on one of them might replace what another node wrote since.
func (a *Allocator) Outdated(listed map[netip.Addr]string, version string) []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgetFuture(version)
	var outdated []netip.Addr
	for base, version := range listed {
		if known, _ := a.mu.index.Block(base); known.Version != version && !a.noteDuringWrite(base, version) {
			outdated = append(outdated, base)
		}
	}
	for b := range a.mu.index.Blocks() {
		if _, ok := listed[b.Base]; !ok && a.concerns(b) {
			outdated = append(outdated, b.Base)
		}
	}
	return outdated
}

// forgetFuture forgets the blocks of other nodes if a known block is newer than the
// version of a list.
func (a *Allocator) forgetFuture(version string) {
	var others []netip.Addr
	restored := false
	for b := range a.mu.index.Blocks() {
		restored = restored || a.config.Older(version, b.Version)
		if !a.concerns(b) {
			others = append(others, b.Base)
		}
	}
	if !restored {
		return
	}
	a.config.Log.Warn("the API server lists SpiderIPBlocks at an older version than known: etcd was restored from a backup", "version", version)
	for _, base := range others {
		if !a.noteDuringWrite(base, "") {
			delete(a.mu.unread, base)
			a.forget(base)
		}
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
	return ok && !known.Unread && (known.Version == version || a.config.Older(version, known.Version))
}

// Read makes a block known as it is now.
func (a *Allocator) Read(ctx context.Context, base netip.Addr) error {
	_, err := a.readBlock(ctx, base)
	return err
}

// readBlock is Read. It returns the block, without leases where there is none.
func (a *Allocator) readBlock(ctx context.Context, base netip.Addr) (lease.Block, error) {
	a.mu.Lock()
	was := a.versionOf(base)
	a.mu.Unlock()
	b, err := a.config.Blocks.Get(ctx, base)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotFound):
		a.takeAbsence(base, was, a.config.Now())
		return lease.Block{}, nil
	case err != nil:
		return lease.Block{}, fmt.Errorf("read block %s: %w", base, err)
	default:
		a.take(b, was, a.config.Now())
		return b, nil
	}
}

func (a *Allocator) versionOf(base netip.Addr) string {
	b, _ := a.mu.index.Block(base)
	return b.Version
}

// ReadUnread reads the blocks whose content is in doubt. Those that cannot be read stay
// so, and ReadUnread returns the errors.
func (a *Allocator) ReadUnread(ctx context.Context) error {
	a.mu.Lock()
	bases := slices.Collect(maps.Keys(a.mu.unread))
	a.mu.Unlock()
	var errs []error
	for _, base := range bases {
		errs = append(errs, a.Read(ctx, base))
	}
	return errors.Join(errs...)
}

// Ready returns an error while a block could not be read for unreadLimit.
func (a *Allocator) Ready() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.mu.loaded {
		return fmt.Errorf("%w: the agent has not read the SpiderIPBlocks of node %s yet", ErrNotReady, a.config.Node)
	}
	for base, since := range a.mu.unread {
		if unread := a.config.Now().Sub(since); unread >= unreadLimit {
			return fmt.Errorf("%w: SpiderIPBlock %s could not be read for %s", ErrNotReady, inet.BlockPrefix(base), unread.Truncate(time.Second))
		}
	}
	return nil
}

// ReadFixed reads the blocks with addresses fixed for the owner, which may belong to
// other nodes. It reads known ones that the store no longer lists, too: the owner has lost
// its address there.
func (a *Allocator) ReadFixed(ctx context.Context, owner lease.Owner) error {
	if owner.IsZero() {
		return nil
	}
	a.mu.Lock()
	was := map[netip.Addr]string{}
	for _, l := range a.mu.index.FixedFor(owner) {
		was[inet.BlockOf(l.Addr)] = a.versionOf(inet.BlockOf(l.Addr))
	}
	a.mu.Unlock()
	blocks, err := a.config.Blocks.FixedFor(ctx, owner)
	if err != nil {
		return fmt.Errorf("read the blocks with addresses of %s: %w", owner, err)
	}
	a.mu.Lock()
	for _, b := range blocks {
		a.take(b, was[b.Base], a.config.Now())
		delete(was, b.Base)
	}
	a.mu.Unlock()
	for base := range was {
		if err := a.Read(ctx, base); err != nil {
			return err
		}
	}
	return nil
}

// concerns reports whether the node created the block or holds a lease in it. The
// watch reports changes of such blocks in order (Knows, ObserveDeleted).
func (a *Allocator) concerns(b lease.Block) bool {
	return b.Node == a.config.Node || b.Mentions(a.config.Node)
}
