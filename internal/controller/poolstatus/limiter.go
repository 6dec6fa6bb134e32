package poolstatus

import (
	"sync"
	"time"
)

const (
	// quiet is how long the leases of a pool must be unchanged before its status is
	// written. Pods come and go in bursts, and only the end of a burst matters.
	quiet = 250 * time.Millisecond
	// maxStale is how long a burst can delay a write at most.
	maxStale = 5 * time.Second
	// minInterval is the least time between two writes of one pool's status.
	minInterval = time.Second
	// bytesPerSecond limits the average size of writes of one pool's status.
	bytesPerSecond = 64 << 10
)

// limiter decides when the status of a pool is due. The zero value is ready.
type limiter struct {
	mu    sync.Mutex
	pools map[string]*pace
}

// pace is the state of one pool. A zero time means never.
type pace struct {
	first, last time.Time // the first and the last change since the leases were read
	next        time.Time // the earliest time of the next write
}

func (l *limiter) of(pool string) *pace {
	if l.pools == nil {
		l.pools = map[string]*pace{}
	}
	p, ok := l.pools[pool]
	if !ok {
		p = &pace{}
		l.pools[pool] = p
	}
	return p
}

// changed records a change of the pool's leases.
func (l *limiter) changed(pool string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(pool)
	if p.first.IsZero() {
		p.first = now
	}
	p.last = now
}

// wait returns how long a write must wait; 0 or less means that it is due.
func (l *limiter) wait(pool string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(pool)
	due := p.next
	if !p.first.IsZero() {
		settled := p.last.Add(quiet)
		if latest := p.first.Add(maxStale); settled.After(latest) {
			settled = latest
		}
		if settled.After(due) {
			due = settled
		}
	}
	return due.Sub(now)
}

// reading records that the leases are about to be read. Later changes need another write.
func (l *limiter) reading(pool string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(pool)
	p.first, p.last = time.Time{}, time.Time{}
}

// wrote records a write of size bytes, not counting the fields of fixed length.
func (l *limiter) wrote(pool string, now time.Time, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(pool).next = now.Add(minInterval + time.Duration(size)*time.Second/bytesPerSecond)
}

// forget removes the state of a deleted pool.
func (l *limiter) forget(pool string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pools, pool)
}
