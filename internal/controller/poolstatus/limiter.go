package poolstatus

import (
	"sync"
	"time"
)

const (
	// quiet is how long nothing must have happened to a pool before its status is
	// written: pods come and go in bursts, and only what is there at the end counts.
	quiet = 250 * time.Millisecond
	// maxStale bounds how long a burst can put a write off.
	maxStale = 5 * time.Second
	// minInterval is the least time between two writes of one pool's status.
	minInterval = time.Second
	// bytesPerSecond is what one pool's status may write on average.
	bytesPerSecond = 64 << 10
)

// limiter says when the status of a pool is to be written. The zero value is ready.
type limiter struct {
	mu    sync.Mutex
	pools map[string]*pace
}

// pace is what is known of one pool; zero times are never.
type pace struct {
	first, last time.Time // changes since the leases were read
	next        time.Time // no write before
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

// changed notes that the leases of the pool have changed.
func (l *limiter) changed(pool string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(pool)
	if p.first.IsZero() {
		p.first = now
	}
	p.last = now
}

// wait returns how long a write has to wait; 0 or less is not at all.
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

// reading notes that the leases are read now: later changes are for another write.
func (l *limiter) reading(pool string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(pool)
	p.first, p.last = time.Time{}, time.Time{}
}

// wrote notes a write; size is what grows in it, in bytes.
func (l *limiter) wrote(pool string, now time.Time, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(pool).next = now.Add(minInterval + time.Duration(size)*time.Second/bytesPerSecond)
}

// forget drops what is known of a pool that is gone.
func (l *limiter) forget(pool string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pools, pool)
}
