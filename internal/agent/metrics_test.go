package agent

import (
	"errors"
	"maps"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/agent/enforcer"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/observe/observetest"
	"spiderpool.dev/spiderpool/internal/reclaim"
	k8sservice "spiderpool.dev/spiderpool/internal/service"
)

func TestReferenceListsMetrics(t *testing.T) {
	m := idleMetrics(t)
	m.Reclaimed(reclaim.PodGone, nil)
	m.Reclaimed(reclaim.PodGone, errors.New("conflict"))
	m.policies.Watch(func() []enforcer.State { return []enforcer.State{{Drops: [2]uint64{1, 1}}} })
	countFlows(t, m)
	m.registry.MustRegister(observe.NewCertificateExpiry("metrics", observetest.Certificate(t)))
	observetest.ReferenceListsMetrics(t, "agent", m.registry)
}

// countFlows counts flows that give each metric about them a time series.
func countFlows(t *testing.T, m *metrics) {
	t.Helper()
	all, err := observe.ParseFlowMetrics(config.Default().Observability.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	opened := flow.Flow{Event: flow.Event{Protocol: k8sservice.TCP, Flags: 2}}
	denied, ping := opened, opened
	denied.Kind, ping.Protocol = flow.Denied, flow.ICMPv4
	counters := observe.NewFlowCounters(m.registry, all, time.Now)
	for _, f := range []flow.Flow{opened, denied, ping} {
		counters.Count(&f)
	}
}

func TestConflictsCountByOperation(t *testing.T) {
	m := idleMetrics(t)
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
