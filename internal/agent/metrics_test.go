package agent

import (
	"errors"
	"maps"
	"testing"

	"spiderpool.dev/spiderpool/internal/agent/enforcer"
	"spiderpool.dev/spiderpool/internal/observe/observetest"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

func TestReferenceListsMetrics(t *testing.T) {
	m := newMetrics(func() int { return 0 }, func() bool { return true })
	m.Reclaimed(reclaim.PodGone, nil)
	m.Reclaimed(reclaim.PodGone, errors.New("conflict"))
	m.policies.Watch(func() []enforcer.State { return []enforcer.State{{Drops: [2]uint64{1, 1}}} })
	observetest.ReferenceListsMetrics(t, "agent", m.registry)
}

func TestConflictsCountByOperation(t *testing.T) {
	m := newMetrics(func() int { return 0 }, func() bool { return true })
	m.AllocationConflict()
	m.ReleaseConflict()
	m.ReleaseConflict()
	want := map[string]float64{
		"spiderpool_ipam_allocation_update_ippool_conflict_counts_total": 1,
		"spiderpool_ipam_release_update_ippool_conflict_counts_total":    2,
	}
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if _, ok := want[family.GetName()]; ok {
			got[family.GetName()] = family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
