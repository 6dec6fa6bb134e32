package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestFiguresOfLatencies(t *testing.T) {
	t.Parallel()
	var latencies []time.Duration
	for us := 200; us >= 1; us-- {
		latencies = append(latencies, time.Duration(us)*time.Microsecond)
	}
	// 200 requests took 20.1 ms.
	want := figures{PerS: 200 / 0.0201, P50US: 100, P99US: 198}
	if diff := cmp.Diff(want, figuresOf(latencies)); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	want = figures{PerS: 1e6, P50US: 1, P99US: 1}
	if diff := cmp.Diff(want, figuresOf([]time.Duration{time.Microsecond})); diff != "" {
		t.Errorf("figures of one latency (-want +got):\n%s", diff)
	}
}
