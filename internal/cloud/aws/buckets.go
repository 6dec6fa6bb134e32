package aws

import (
	"context"
	"strings"
	"sync"

	"golang.org/x/time/rate"
)

// Half of the rates that AWS documents for one account, region and action, because other
// programs share them: describing calls have buckets of 100 tokens and get 20 a second,
// changes have at least 50 and get 5
// (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).
const (
	describeRate, describeBurst = 10, 50
	changeRate, changeBurst     = 2.5, 25
)

// buckets limits the requests, by action as EC2 does.
type buckets struct {
	mu       sync.Mutex
	byAction map[string]*rate.Limiter
}

func newBuckets() *buckets { return &buckets{byAction: map[string]*rate.Limiter{}} }

// wait takes a token of an action. It returns an error if ctx ends first.
func (b *buckets) wait(ctx context.Context, action string) error { return b.of(action).Wait(ctx) }

func (b *buckets) of(action string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.byAction[action]
	if !ok {
		l = rate.NewLimiter(changeRate, changeBurst)
		if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") {
			l = rate.NewLimiter(describeRate, describeBurst)
		}
		b.byAction[action] = l
	}
	return l
}
