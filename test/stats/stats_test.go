package stats

import (
	"slices"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for name, tt := range map[string]struct {
		values []float64
		want   float64
	}{
		"none": {nil, 0},
		"one":  {[]float64{3}, 3},
		"odd":  {[]float64{5, 1, 2}, 2},
		"even": {[]float64{5, 1, 2, 3}, 2.5},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.values)
			if got := Median(tt.values); got != tt.want || !slices.Equal(tt.values, before) {
				t.Errorf("got %v of %v, want %v", got, tt.values, tt.want)
			}
		})
	}
	if got := Median([]time.Duration{time.Second, 2 * time.Second}); got != 1500*time.Millisecond {
		t.Errorf("got %s", got)
	}
}
