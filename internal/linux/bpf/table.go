package bpf

import (
	"errors"
	"iter"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// table is a map with a limit.
type table[K comparable, V any] interface {
	// Put writes an entry and returns whether its key is new. The error for a new key in
	// a full table is errFull.
	Put(K, V) (added bool, err error)
	// Delete returns whether the entry existed.
	Delete(K) (deleted bool, err error)
	// All returns every entry of a table that does not change meanwhile. After an error,
	// *err is set and the sequence ends.
	All(err *error) iter.Seq2[K, V]
	// Limit is the maximum number of entries.
	Limit() int
}

var errFull = errors.New("the map is full")

// kernelTable is a hash map of the kernel.
type kernelTable[K comparable, V any] struct{ m *ebpf.Map }

func (t kernelTable[K, V]) Put(k K, v V) (bool, error) {
	// The two steps tell a new key from a known one. Only this package writes, so no
	// other write comes between them.
	err := t.update(k, v, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return false, t.update(k, v, ebpf.UpdateExist)
	}
	if errors.Is(err, unix.E2BIG) {
		return false, errFull
	}
	return err == nil, err
}

// refills is how often update waits for memory, and refill how long.
const (
	refills = 100
	refill  = 5 * time.Millisecond
)

// update writes an entry. The kernel allocates entries from a stock that it refills in
// an interrupt. Without interrupts between processors (User Mode Linux), this is the next
// tick, and a stock of some dozens is used up first.
func (t kernelTable[K, V]) update(k K, v V, flags ebpf.MapUpdateFlags) (err error) {
	for range refills {
		if err = t.m.Update(&k, &v, flags); !errors.Is(err, unix.ENOMEM) {
			break
		}
		time.Sleep(refill)
	}
	return err
}

func (t kernelTable[K, V]) Delete(k K) (bool, error) {
	err := t.m.Delete(&k)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (t kernelTable[K, V]) All(err *error) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		var k K
		var v V
		entries := t.m.Iterate()
		for entries.Next(&k, &v) {
			if !yield(k, v) {
				return
			}
		}
		*err = entries.Err()
	}
}

func (t kernelTable[K, V]) Limit() int { return int(t.m.MaxEntries()) }
