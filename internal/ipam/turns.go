package ipam

import (
	"context"
	"sync"
)

// turns lets one ADD of a container run at a time. A runtime does the same (CNI
// specification 1.1.0, section 3, "Lifecycle & Ordering"), but the ADD of a killed plugin may
// still run here. If it fails, it releases the addresses that the container did not have
// before, so it must not count those of another ADD. The zero value is ready for use.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // by container; closed at the end of the turn
}

// take waits for the container's turn, until ctx ends. Call leave at its end.
func (t *turns) take(ctx context.Context, container string) (leave func(), err error) {
	mine := make(chan struct{})
	for {
		other := t.begin(container, mine)
		if other == nil {
			return func() { t.end(container, mine) }, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// begin makes mine the turn of the container, or returns the present one.
func (t *turns) begin(container string, mine chan struct{}) (other chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other, ok := t.busy[container]; ok {
		return other
	}
	if t.busy == nil {
		t.busy = map[string]chan struct{}{}
	}
	t.busy[container] = mine
	return nil
}

func (t *turns) end(container string, mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, container)
	close(mine)
}
