package main

import (
	"testing"
	"time"
)

func TestFiguresOfLatencies(t *testing.T) {
	t.Parallel()
	var latencies []time.Duration
	for us := 200; us >= 1; us-- {
		latencies = append(latencies, time.Duration(us)*time.Microsecond)
	}
	// 200 requests took 20.1 ms.
	want := figures{PerS: 200 / 0.0201, P50US: 100, P99US: 198}
	if got := figuresOf(latencies); got != want {
		t.Errorf("figures %+v, want %+v", got, want)
	}
	want = figures{PerS: 1e6, P50US: 1, P99US: 1}
	if got := figuresOf([]time.Duration{time.Microsecond}); got != want {
		t.Errorf("figures of one %+v, want %+v", got, want)
	}
}
