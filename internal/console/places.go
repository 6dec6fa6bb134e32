package console

import (
	"context"
	"crypto/sha256"
	"sync"
)

const (
	// maxRendering is the number of pages that are drawn at a time. The largest takes a few megabytes.
	maxRendering = 8
	// maxOwnRendering is the part of one user, whose pages may all wait for slow reviews.
	maxOwnRendering = 2
)

// places limit the pages that are drawn at a time.
type places struct {
	all chan struct{}
	mu  struct {
		sync.Mutex
		// own are the places of users with a request, by tokenauth.User.ID.
		own map[[sha256.Size]byte]*ownPlaces
	}
}

type ownPlaces struct {
	taken chan struct{}
	// requests is the number of those with a place, and of those that wait for one. places.mu guards it.
	requests int
}

func newPlaces() *places {
	p := &places{all: make(chan struct{}, maxRendering)}
	p.mu.own = map[[sha256.Size]byte]*ownPlaces{}
	return p
}

// take waits for a place, and returns the function that gives it back, or false if ctx ends before.
func (p *places) take(ctx context.Context, user [sha256.Size]byte) (give func(), ok bool) {
	own := p.enter(user)
	select {
	case own.taken <- struct{}{}:
	case <-ctx.Done():
		p.leave(user, own)
		return nil, false
	}
	select {
	case p.all <- struct{}{}:
	case <-ctx.Done():
		<-own.taken
		p.leave(user, own)
		return nil, false
	}
	return func() {
		<-p.all
		<-own.taken
		p.leave(user, own)
	}, true
}

func (p *places) enter(user [sha256.Size]byte) *ownPlaces {
	p.mu.Lock()
	defer p.mu.Unlock()
	own := p.mu.own[user]
	if own == nil {
		own = &ownPlaces{taken: make(chan struct{}, maxOwnRendering)}
		p.mu.own[user] = own
	}
	own.requests++
	return own
}

func (p *places) leave(user [sha256.Size]byte, own *ownPlaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own.requests--; own.requests == 0 {
		delete(p.mu.own, user)
	}
}
