package console

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStreams and maxOwnStreams limit the open pages, of all users and of one user.
	maxStreams, maxOwnStreams = 2000, 64
	// heartbeat is the time between two comments. It finds dead connections, and ends those without a session.
	heartbeat = 20 * time.Second
	// streamWrite limits one write to a slow browser.
	streamWrite = 10 * time.Second
)

// streams counts the open pages.
type streams struct {
	mu struct {
		sync.Mutex
		open int
		own  map[[sha256.Size]byte]int // by tokenauth.User.ID
	}
}

func newStreams() *streams {
	s := &streams{}
	s.mu.own = map[[sha256.Size]byte]int{}
	return s
}

// take takes a place for a user, and returns false if there is none.
func (s *streams) take(user [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.open >= maxStreams || s.mu.own[user] >= maxOwnStreams {
		return false
	}
	s.mu.open++
	s.mu.own[user]++
	return true
}

func (s *streams) give(user [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.open--
	if s.mu.own[user]--; s.mu.own[user] == 0 {
		delete(s.mu.own, user)
	}
}

// live tells a page about new snapshots with server-sent events. The page then reads itself again. The status 204 makes a
// browser give up.
func (s *site) live(w http.ResponseWriter, r *http.Request) {
	x := s.sessionOf(r, false)
	if x == nil || !s.streams.take(x.user.ID()) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	defer s.streams.give(x.user.ID())
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the events back
	send := func(text string) bool {
		_ = control.SetWriteDeadline(s.deadline())
		_, err := fmt.Fprint(w, text)
		return err == nil && control.Flush() == nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for last := uint64(0); ; {
		generation, next := s.Board.follow()
		if generation != last {
			last = generation
			if !send(fmt.Sprintf("event: snapshot\ndata: %d\n\n", generation)) {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-next:
		case <-beat.C:
			if s.sessionOf(r, false) == nil || !send(": still here\n\n") {
				return
			}
		}
	}
}

// deadline is by the clock of the kernel, also in tests with another one.
func (s *site) deadline() time.Time { return time.Now().Add(streamWrite) }
