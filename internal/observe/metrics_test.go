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
			got[family.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{"spiderpool_ip_gc_counts PodGone": 2, "spiderpool_ip_gc_failure_counts PodFailed": 1}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
