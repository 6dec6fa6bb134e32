// Package readcache remembers the answers of expensive reads for a short time.
//
//	networks := readcache.Cache[string, Network]{TTL: 5 * time.Second, Now: time.Now}
//	network, err := networks.Get(ctx, name, func(ctx context.Context) (Network, error) { … })
//
// At most one read of a key runs at a time; later callers wait for it. A failed
// read is not remembered: the next caller reads again. The package does no I/O of
// its own, and its clock is passed in, so use cases may import it.
package readcache

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Cache maps keys to the values read last. Set the exported fields before the first
// call. Methods are safe for concurrent use. A Cache must not be copied after use.
type Cache[K comparable, V any] struct {
	// TTL is how long a value serves, counted from the start of its read. Zero means
	// for ever.
	TTL time.Duration
	// Max bounds the number of values; the oldest goes first. Zero means no bound.
	Max int
	// Now returns the current time.
	Now func() time.Time

	reads singleflight.Group
	mu    struct {
		sync.Mutex
		// values has at most Max entries. Those older than TTL stay until another
		// key is read: Get returns them beside an error.
		values map[K]value[V]
	}
}

type value[V any] struct {
	v    V
	read time.Time // when the read began
}

// outcome is the result of one read, for all callers that wait for it.
type outcome[V any] struct {
	v   V
	err error
	// abandoned means that the read failed after its caller had given up. The other
	// callers then read again.
	abandoned bool
}

// Get returns the remembered value of key, or calls read and remembers its answer.
// The read runs with the context of the first caller. Every caller returns
// context.Cause(ctx) as soon as its own context ends. With an error, Get returns
// the value read last, or the zero value if there is none.
func (c *Cache[K, V]) Get(ctx context.Context, key K, read func(context.Context) (V, error)) (V, error) {
	for {
		if v, fresh := c.lookup(key); fresh {
			return v, nil
		}
		// The closure has run before the channel delivers, so mine needs no lock.
		mine := false
		done := c.reads.DoChan(fmt.Sprintf("%#v", key), func() (any, error) {
			mine = true
			return c.read(ctx, key, read), nil
		})
		select {
		case result := <-done:
			switch out := result.Val.(outcome[V]); {
			case out.err == nil:
				return out.v, nil
			case mine || !out.abandoned:
				v, _ := c.lookup(key)
				return v, out.err
			}
		case <-ctx.Done():
			v, _ := c.lookup(key)
			return v, context.Cause(ctx)
		}
	}
}

// Set remembers v as if it had been read now, e.g. because the caller wrote it.
func (c *Cache[K, V]) Set(key K, v V) { c.set(key, v, c.Now()) }

// Forget removes the value of key, e.g. because a read found that it no longer exists. A
// read in progress is not affected.
func (c *Cache[K, V]) Forget(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.values, key)
}

// lookup returns the value read last and whether it still serves.
func (c *Cache[K, V]) lookup(key K) (v V, fresh bool) {
	now := c.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.mu.values[key]
	return last.v, ok && c.serves(last, now)
}

func (c *Cache[K, V]) serves(last value[V], now time.Time) bool {
	return c.TTL == 0 || now.Sub(last.read) < c.TTL
}

func (c *Cache[K, V]) read(ctx context.Context, key K, read func(context.Context) (V, error)) outcome[V] {
	// Another read may have ended between lookup and this call.
	if v, fresh := c.lookup(key); fresh {
		return outcome[V]{v: v}
	}
	began := c.Now()
	v, err := read(ctx)
	if err != nil {
		return outcome[V]{err: err, abandoned: ctx.Err() != nil}
	}
	c.set(key, v, began)
	return outcome[V]{v: v}
}

// set remembers v. It removes expired values and, if there are still too many, the oldest.
func (c *Cache[K, V]) set(key K, v V, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.values == nil {
		c.mu.values = map[K]value[V]{}
	}
	maps.DeleteFunc(c.mu.values, func(k K, last value[V]) bool { return k == key || !c.serves(last, now) })
	if c.Max > 0 && len(c.mu.values) >= c.Max {
		var oldest K
		var since time.Time
		for k, last := range c.mu.values {
			if since.IsZero() || last.read.Before(since) {
				oldest, since = k, last.read
			}
		}
		delete(c.mu.values, oldest)
	}
	c.mu.values[key] = value[V]{v: v, read: now}
}
