package alloc

import "spiderpool.dev/spiderpool/internal/lease"

// Queued returns the number of requests waiting for the next batch.
func (a *Allocator) Queued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.mu.queue)
}

// Observe stores a block as a read returns it that began before the index had any version.
func (a *Allocator) Observe(b lease.Block) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(b, "none", a.config.Now())
}

// KnownBlocks returns the number of blocks in memory.
func (a *Allocator) KnownBlocks() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range a.mu.index.Blocks() {
		n++
	}
	return n
}
