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
