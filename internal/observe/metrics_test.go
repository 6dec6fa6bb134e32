package observe

import (
	"errors"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestReclaimsCountFailuresApart(t *testing.T) {
	r := NewReclaims()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	r.Reclaimed(reclaim.PodGone, nil)
	r.Reclaimed(reclaim.PodGone, nil)
	r.Reclaimed(reclaim.PodFailed, errors.New("conflict"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if value := m.GetCounter().GetValue(); value > 0 {
				got[family.GetName()+" "+m.GetLabel()[0].GetValue()] = value
			}
		}
		if series := len(family.GetMetric()); series != len(reclaim.Reasons) {
			t.Errorf("%s has %d series, want one for each of the %d reasons from the start", family.GetName(), series, len(reclaim.Reasons))
		}
	}
	want := map[string]float64{"spiderpool_ip_gc_counts_total PodGone": 2, "spiderpool_ip_gc_failure_counts_total PodFailed": 1}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
