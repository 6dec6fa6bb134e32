package poolstatus

import (
	"testing"
	"time"
)

func TestStatusIsWrittenAfterBurst(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	var l limiter
	if w := l.wait("p", at(0)); w > 0 {
		t.Errorf("a pool that nothing happened to waits %s", w)
	}
	l.changed("p", at(0))
	l.changed("p", at(100*time.Millisecond))
	if w := l.wait("p", at(100*time.Millisecond)); w != quiet {
		t.Errorf("in a burst: %s, want %s", w, quiet)
	}
	if w := l.wait("p", at(100*time.Millisecond+quiet)); w > 0 {
		t.Errorf("after the burst: %s, want none", w)
	}
}

func TestLongBurstDelaysWriteByMaxStale(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l limiter
	began, writes := now, 0
	for now.Sub(began) < time.Minute {
		l.changed("p", now)
		if l.wait("p", now) <= 0 {
			l.reading("p")
			l.wrote("p", now, 0)
			writes++
		}
		now = now.Add(10 * time.Millisecond)
	}
	if least := int(time.Minute / (maxStale + minInterval)); writes < least || writes > 60 {
		t.Errorf("%d writes in a minute of changes, want one in %s at least and one a second at most", writes, maxStale)
	}
}

func TestLargeStatusIsWrittenLessOften(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l limiter
	l.wrote("small", now, 0)
	l.wrote("large", now, 10*bytesPerSecond)
	l.changed("small", now)
	if w := l.wait("small", now); w != minInterval {
		t.Errorf("small: %s, want %s", w, minInterval)
	}
	if w := l.wait("large", now); w != minInterval+10*time.Second {
		t.Errorf("large: %s, want %s", w, minInterval+10*time.Second)
	}
	l.forget("large")
	if w := l.wait("large", now); w > 0 {
		t.Errorf("a new pool of an old name waits %s", w)
	}
}

func TestChangeDuringReadCausesAnotherWrite(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l limiter
	l.changed("p", now)
	l.reading("p")
	l.changed("p", now.Add(time.Millisecond))
	l.wrote("p", now, 0)
	if w := l.wait("p", now.Add(2*time.Second)); w > 0 {
		t.Errorf("waits %s", w)
	}
	if l.of("p").first.IsZero() {
		t.Error("the change was forgotten")
	}
}
