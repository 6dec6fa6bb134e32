package cloud

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The earlier look is the newest one at least Apart before the latest, whatever comes between.
func TestLooksKeepNewestEarlierOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h History
		var times []time.Time
		at := start
		for range rapid.IntRange(1, 30).Draw(rt, "looks") {
			at = at.Add(time.Duration(rapid.IntRange(0, 9000).Draw(rt, "pause")) * time.Millisecond)
			h, times = h.Add(Answer{At: at}), append(times, at)
			var want time.Time
			for _, one := range times {
				if at.Sub(one) >= Apart {
					want = one
				}
			}
			var got time.Time
			if h.earlier != nil {
				got = h.earlier.At
			}
			if !got.Equal(want) || !h.latest.At.Equal(at) {
				rt.Fatalf("after answers at %v, the history has %s and %s, want %s", times, got, h.latest.At, want)
			}
		}
	})
}

func TestNextQuestionKeepsItsTime(t *testing.T) {
	h := History{}.Add(Answer{At: start}).Add(Answer{At: start.Add(Apart - time.Millisecond)})
	if next := h.Next(start); !next.Equal(start.Add(Apart)) {
		t.Errorf("the next question is at %s, want %s: an answer between delays nothing", next, start.Add(Apart))
	}
	if h = h.Add(Answer{At: start.Add(Apart)}); !h.Since(start) {
		t.Error("two answers that are Apart apart prove nothing")
	}
	if next := h.Next(start.Add(time.Hour)); !next.Equal(start.Add(time.Hour)) {
		t.Errorf("the next question is at %s, before the time", next)
	}
}
