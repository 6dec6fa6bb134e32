package cloudmetrics

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
)

func TestMeasuredProviderConforms(t *testing.T) {
	cloudtest.Conformance(t, func(*testing.T) (cloud.Provider, cloudtest.World) {
		f := cloudtest.NewFake()
		return New().Measure("fake", f), f
	}, cloudtest.Limits{})
}

func TestCallsAreCountedByResult(t *testing.T) {
	m, f := New(), cloudtest.NewFake()
	p := m.Measure("fake", f)
	f.Throttle("Limits")
	for range 3 {
		_, _ = p.Limits(t.Context(), nil) // the first one is throttled
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, series := range family.GetMetric() {
			name := family.GetName()
			for _, label := range series.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = series.GetCounter().GetValue() + float64(series.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]float64{
		"spiderpool_cloud_call_counts_total Limits fake Throttled": 1,
		"spiderpool_cloud_call_counts_total Limits fake Success":   2,
		"spiderpool_cloud_call_duration_seconds Limits fake":       3,
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
