package lease

import "container/heap"

// queue is a priority queue ordered by less. It knows the position of each item, so
// that all changes take O(log n).
type queue[T any] struct {
	items []T
	less  func(a, b T) bool
	// at returns a pointer to the item's field for its position: 1-based, and 0
	// outside the queue.
	at func(item T) *int
}

// set adds item to the queue, or restores the order after a change of item. If wanted
// is false, set removes item.
func (q *queue[T]) set(item T, wanted bool) {
	position := *q.at(item)
	switch {
	case position == 0 && wanted:
		heap.Push((*queueHeap[T])(q), item)
	case position != 0 && wanted:
		heap.Fix((*queueHeap[T])(q), position-1)
	case position != 0:
		heap.Remove((*queueHeap[T])(q), position-1)
	}
}

// first returns the first item, and false if the queue is empty.
func (q *queue[T]) first() (item T, ok bool) {
	if len(q.items) == 0 {
		return item, false
	}
	return q.items[0], true
}

// queueHeap implements heap.Interface for queue.
type queueHeap[T any] queue[T]

func (h *queueHeap[T]) Len() int           { return len(h.items) }
func (h *queueHeap[T]) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *queueHeap[T]) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.at(h.items[i]), *h.at(h.items[j]) = i+1, j+1
}

func (h *queueHeap[T]) Push(item any) {
	h.items = append(h.items, item.(T))
	*h.at(item.(T)) = len(h.items)
}

func (h *queueHeap[T]) Pop() any {
	last := len(h.items) - 1
	item := h.items[last]
	var none T
	h.items[last] = none
	h.items = h.items[:last]
	*h.at(item) = 0
	return item
}
