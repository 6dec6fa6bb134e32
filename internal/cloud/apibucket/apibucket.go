// Package apibucket limits the requests to a cloud, by action as the clouds do.
package apibucket

import (
	"context"
	"strings"
	"sync"

	"golang.org/x/time/rate"
)

// Size is a token bucket: Burst requests at once, then Rate requests a second.
type Size struct {
	Rate  rate.Limit
	Burst int
}

// Buckets has a bucket for each action. Its methods may be called concurrently.
type Buckets struct {
	describe, change Size

	mu       sync.Mutex
	byAction map[string]*rate.Limiter
}

// New returns full buckets. The names of describing actions begin with Describe, Get or List.
func New(describe, change Size) *Buckets {
	return &Buckets{describe: describe, change: change, byAction: map[string]*rate.Limiter{}}
}

// Wait takes a token of an action, e.g. DescribeInstances. It returns an error if ctx ends first.
func (b *Buckets) Wait(ctx context.Context, action string) error { return b.of(action).Wait(ctx) }

func (b *Buckets) of(action string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.byAction[action]
	if !ok {
		size := b.change
		for _, verb := range []string{"Describe", "Get", "List"} {
			if strings.HasPrefix(action, verb) {
				size = b.describe
			}
		}
		l = rate.NewLimiter(size.Rate, size.Burst)
		b.byAction[action] = l
	}
	return l
}
