// Package ipamtest is what tests of package ipam and of its adapters share: a
// block store in memory, and the contract that every block store keeps.
package ipamtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
)

// Store is a block store in memory (alloc.Blocks). The zero value is empty.
type Store struct {
	// Before, when set, is called ahead of every operation ("get", "put",
	// "delete", "list") without the lock; its error is returned instead of doing
	// the operation.
	Before func(operation string, base netip.Addr) error
	// After, when set, is called after every put that was done; its error is
	// returned although the block is written, as when an answer is lost.
	After func(base netip.Addr) error

	mu     sync.Mutex
	next   uint64
	blocks map[netip.Addr]lease.Block
	counts map[string]int
}

// Older orders versions (alloc.Config.Older).
func (*Store) Older(a, b string) bool {
	na, errA := strconv.ParseUint(a, 10, 64)
	nb, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && na < nb
}

func (s *Store) enter(operation string, base netip.Addr) error {
	if s.Before != nil {
		if err := s.Before(operation, base); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if s.blocks == nil {
		s.blocks, s.counts = map[netip.Addr]lease.Block{}, map[string]int{}
	}
	s.counts[operation]++
	return nil
}

// Get implements alloc.Blocks.
func (s *Store) Get(_ context.Context, base netip.Addr) (lease.Block, error) {
	if err := s.enter("get", base); err != nil {
		return lease.Block{}, err
	}
	defer s.mu.Unlock()
	b, ok := s.blocks[base]
	if !ok {
		return lease.Block{}, fmt.Errorf("block %s: %w", base, alloc.ErrNotFound)
	}
	return clone(b), nil
}

// Put implements alloc.Blocks.
func (s *Store) Put(_ context.Context, b lease.Block) (string, error) {
	if err := s.enter("put", b.Base); err != nil {
		return "", err
	}
	version, err := s.put(b)
	s.mu.Unlock()
	if err == nil && s.After != nil {
		err = s.After(b.Base)
	}
	return version, err
}

func (s *Store) put(b lease.Block) (string, error) {
	if err := b.Validate(); err != nil {
		return "", err
	}
	if err := tooLongText(b); err != nil {
		return "", err
	}
	if stored, ok := s.blocks[b.Base]; stored.Version != b.Version || ok != (b.Version != "") {
		s.counts["conflict"]++
		return "", fmt.Errorf("block %s: %w", b.Base, alloc.ErrConflict)
	}
	s.next++
	b = clone(b)
	b.Version = strconv.FormatUint(s.next, 10)
	s.blocks[b.Base] = b
	return b.Version, nil
}

// tooLongText returns alloc.ErrRefused for a text beyond the limits of the
// CustomResourceDefinition.
func tooLongText(b lease.Block) error {
	for _, l := range b.Leases {
		for text, most := range map[string]int{
			l.Pool: 253, l.Pod.String(): 317, l.PodUID: 128, l.ContainerID: 128, l.Interface: 15, l.Node: 253, l.FixedFor.String(): 340, l.MAC: 64,
		} {
			if len(text) > most {
				return fmt.Errorf("block %s: %w: %.20s… is longer than %d bytes", b.Base, alloc.ErrRefused, text, most)
			}
		}
	}
	return nil
}

// Delete removes the block at its version, as the controller does.
func (s *Store) Delete(_ context.Context, b lease.Block) error {
	if err := s.enter("delete", b.Base); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if stored, ok := s.blocks[b.Base]; !ok || stored.Version != b.Version {
		return fmt.Errorf("block %s: %w", b.Base, alloc.ErrConflict)
	}
	delete(s.blocks, b.Base)
	return nil
}

// OfNode implements alloc.Blocks.
func (s *Store) OfNode(_ context.Context, node string) ([]lease.Block, error) {
	return s.list(func(b lease.Block) bool {
		return b.Node == node || b.Mentions(node)
	})
}

// FixedFor implements alloc.Blocks.
func (s *Store) FixedFor(_ context.Context, owner lease.Owner) ([]lease.Block, error) {
	return s.list(func(b lease.Block) bool {
		return slices.ContainsFunc(b.Leases, func(l lease.Lease) bool { return l.FixedFor == owner })
	})
}

// InRegion implements alloc.Blocks.
func (s *Store) InRegion(_ context.Context, region netip.Prefix) ([]lease.Block, error) {
	return s.list(func(b lease.Block) bool { return region.Contains(b.Base) })
}

// Withheld implements withhold.Blocks.
func (s *Store) Withheld(_ context.Context) ([]lease.Block, error) {
	return s.list(func(b lease.Block) bool { return len(b.Withheld()) > 0 })
}

// All returns every block.
func (s *Store) All() []lease.Block {
	blocks, err := s.list(func(lease.Block) bool { return true })
	if err != nil {
		panic(err) // only a fault that the test itself injected
	}
	return blocks
}

func (s *Store) list(keep func(lease.Block) bool) ([]lease.Block, error) {
	if err := s.enter("list", netip.Addr{}); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var blocks []lease.Block
	for _, b := range s.blocks {
		if keep(b) {
			blocks = append(blocks, clone(b))
		}
	}
	slices.SortFunc(blocks, func(a, b lease.Block) int { return a.Base.Compare(b.Base) })
	return blocks, nil
}

// Backup is the content of a store at a time.
type Backup struct {
	next   uint64
	blocks map[netip.Addr]lease.Block
}

// Backup returns the content of the store.
func (s *Store) Backup() Backup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Backup{s.next, maps.Clone(s.blocks)}
}

// Version returns the version of a list.
func (s *Store) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strconv.FormatUint(s.next, 10)
}

// Restore sets the store back, versions included, like a restore of etcd.
func (s *Store) Restore(b Backup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.blocks = b.next, maps.Clone(b.blocks)
}

// Count returns how often an operation was begun; "conflict" counts the puts that
// lost.
func (s *Store) Count(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[operation]
}

func clone(b lease.Block) lease.Block {
	b.Leases = slices.Clone(b.Leases)
	if b.Former = slices.Clone(b.Former); len(b.Former) == 0 {
		b.Former = nil
	}
	return b
}

// Held returns the leases in use by address.
func Held(t testing.TB, store *Store) map[netip.Addr]lease.Lease {
	t.Helper()
	leases := map[netip.Addr]lease.Lease{}
	for _, b := range store.All() {
		for _, l := range b.Leases {
			if l.State == lease.InUse {
				leases[l.Addr] = l // one at most: put validates the block
			}
		}
	}
	return leases
}
