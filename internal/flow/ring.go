package flow

import (
	"context"
	"sync"
)

// Ring keeps the last flows of a node, and numbers them from 0. A writer never waits for a reader: a reader that is too
// slow loses the oldest flows, and is told how many. Its methods are safe for concurrent use.
type Ring struct {
	mu    sync.Mutex
	flows []Flow // flow n is at n modulo the capacity
	next  uint64 // the number of the next flow
	// waiting is closed by the next Add; nil if no reader waits.
	waiting chan struct{}
}

// NewRing returns an empty ring for a number of flows, at least one.
func NewRing(capacity int) *Ring { return &Ring{flows: make([]Flow, max(capacity, 1))} }

// Add appends flows. It returns after copying them.
func (r *Ring) Add(flows ...Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range flows {
		r.flows[r.next%uint64(len(r.flows))] = f
		r.next++
	}
	if r.waiting != nil && len(flows) > 0 {
		close(r.waiting)
		r.waiting = nil
	}
}

// Capacity is the number of flows that the ring keeps.
func (r *Ring) Capacity() int { return len(r.flows) }

// Bounds returns the numbers of the oldest flow in the ring and of the next one to be added.
func (r *Ring) Bounds() (oldest, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.oldest(), r.next
}

func (r *Ring) oldest() uint64 {
	return r.next - min(r.next, uint64(len(r.flows)))
}

// Read copies the flows from a number on into a slice, as many as fit. It returns the number of copied flows, the number
// of the first one, and how many flows between from and that one are lost.
func (r *Ring) Read(from uint64, into []Flow) (n int, first, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first = min(max(from, r.oldest()), r.next)
	if first > from {
		lost = first - from
	}
	for n < len(into) && first+uint64(n) < r.next {
		into[n] = r.flows[(first+uint64(n))%uint64(len(r.flows))]
		n++
	}
	return n, first, lost
}

// Wait returns once the ring has had the flow with a number, or with the cause of the context's end.
func (r *Ring) Wait(ctx context.Context, number uint64) error {
	for {
		added := r.awaited(number)
		if added == nil {
			return nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// awaited returns the channel that the next Add closes, or nil if the ring has had the flow.
func (r *Ring) awaited(number uint64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number < r.next {
		return nil
	}
	if r.waiting == nil {
		r.waiting = make(chan struct{})
	}
	return r.waiting
}
