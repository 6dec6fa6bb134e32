package flow

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// numbered returns a flow that the tests recognize.
func numbered(n uint64) Flow { return Flow{Event: Event{Time: time.Unix(int64(n), 0)}} }

// TestReaderLosesOldestOnly compares a ring with a list of all flows: whatever a reader reads is in order and complete but
// for the flows that it is told of, and these are the oldest.
func TestReaderLosesOldestOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ring := NewRing(rapid.IntRange(-1, 9).Draw(t, "capacity"))
		var written, cursor, read, lost uint64
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				batch := make([]Flow, rapid.IntRange(0, 12).Draw(t, "batch"))
				for i := range batch {
					batch[i] = numbered(written)
					written++
				}
				ring.Add(batch...)
			},
			"read": func(t *rapid.T) {
				into := make([]Flow, rapid.IntRange(0, 12).Draw(t, "room"))
				n, first, missed := ring.Read(cursor, into)
				if first != cursor+missed {
					t.Fatalf("read from %d: first %d, lost %d", cursor, first, missed)
				}
				if kept := min(written, uint64(ring.Capacity())); missed > 0 && first != written-kept {
					t.Fatalf("lost %d flows, although the ring keeps flow %d", missed, written-kept)
				}
				lost, cursor = lost+missed, first+uint64(n)
				for i, f := range into[:n] {
					if at := uint64(f.Time.Unix()); at != first+uint64(i) {
						t.Fatalf("flow %d is at %d", at, first+uint64(i))
					}
					read++
				}
			},
			"": func(t *rapid.T) {
				if read+lost != cursor || cursor > written {
					t.Fatalf("%d read, %d lost, at %d of %d", read, lost, cursor, written)
				}
			},
		})
	})
}

// A writer never waits, even if no reader reads.
func TestWaitEndsWithFlow(t *testing.T) {
	ring := NewRing(2)
	ended := make(chan error)
	go func() { ended <- ring.Wait(t.Context(), 2) }()
	for n := range uint64(3) {
		ring.Add(numbered(n))
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := ring.Wait(t.Context(), 0); err != nil {
		t.Errorf("an overwritten flow: %v", err)
	}
	over := errors.New("over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(over)
	if err := ring.Wait(ctx, 3); !errors.Is(err, over) {
		t.Errorf("error %v", err)
	}
}

func FuzzRingReads(f *testing.F) {
	f.Add(uint8(4), uint16(9), uint64(3), uint8(2))
	f.Add(uint8(0), uint16(0), ^uint64(0), uint8(0))
	f.Fuzz(func(t *testing.T, capacity uint8, written uint16, from uint64, room uint8) {
		ring := NewRing(int(capacity))
		for n := range uint64(written) {
			ring.Add(numbered(n))
		}
		into := make([]Flow, room)
		n, first, lost := ring.Read(from, into)
		if n > int(room) || n > ring.Capacity() || first+uint64(n) > uint64(written) || lost > uint64(written) {
			t.Fatalf("read %d from %d, lost %d", n, first, lost)
		}
		for i, f := range into[:n] {
			if uint64(f.Time.Unix()) != first+uint64(i) {
				t.Fatalf("flow %d is at %d", f.Time.Unix(), first+uint64(i))
			}
		}
	})
}
