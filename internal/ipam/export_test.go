package ipam

import (
	"context"

	"spiderpool.dev/spiderpool/internal/lease"
)

// Queued returns the number of requests waiting for the next batch.
func (a *Allocator) Queued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.mu.queue)
}

// Release ends the leases of the attachments.
func (a *Allocator) Release(ctx context.Context, attachments ...lease.Attachment) error {
	return a.release(ctx, attachments...)
}

// Allocate grants what a request that arrives now wants.
func (a *Allocator) Allocate(ctx context.Context, req lease.Request) ([]lease.Grant, error) {
	return a.allocate(ctx, req, a.Arrive())
}

// Observe stores a block as a read returns it that began before the index had any version.
func (a *Allocator) Observe(b lease.Block) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(b, "none", a.now())
}
