package agent

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/wire"
)

// idleMetrics returns the metrics of an agent without releases, whose runtime was never asked.
func idleMetrics(t *testing.T) *metrics {
	t.Helper()
	return newMetrics(journal.In(t.TempDir()), &runtimeHealth{now: time.Now, log: slog.New(slog.DiscardHandler)})
}

// gaugeValue returns the value of a metric with one time series.
func gaugeValue(t *testing.T, registry prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestOldestRequestCountsUntilItsAnswer(t *testing.T) {
	registry, now := prometheus.NewRegistry(), time.Unix(1000, 0)
	w := newWaiting(registry, func() time.Time { return now })
	const name = "spiderpool_ipam_oldest_allocation_age_seconds"
	first, second := w.enter(now.Add(-30*time.Second)), w.enter(now.Add(-5*time.Second))
	for _, step := range []struct {
		leave func()
		want  float64
	}{{func() {}, 30}, {first, 5}, {second, 0}} {
		step.leave()
		if got := gaugeValue(t, registry, name); got != step.want {
			t.Errorf("got %v, want %v", got, step.want)
		}
	}
}

func TestOldestReleaseAgesUntilReplay(t *testing.T) {
	registry, releases := prometheus.NewRegistry(), journal.Journal{Dir: filepath.Join(t.TempDir(), "releases")}
	now := time.Now()
	registerReleases(registry, releases, func() time.Time { return now })
	const name = "spiderpool_ipam_oldest_release_age_seconds"
	if got := gaugeValue(t, registry, name); got != 0 {
		t.Errorf("without a release: %v", got)
	}
	for _, container := range []string{"a", "b"} {
		if err := releases.Begin(wire.Attachment{ContainerID: container, Interface: "eth0", PodNamespace: "default", PodName: "p"})(true); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(releases.Dir, "*"))
	if err != nil || len(kept) != 2 {
		t.Fatalf("%d files, %v", len(kept), err)
	}
	for i, file := range kept {
		if at := now.Add(-time.Duration(i) * time.Minute); os.Chtimes(file, at, at) != nil {
			t.Fatal(file)
		}
	}
	now = now.Add(time.Hour)
	if got := gaugeValue(t, registry, name); math.Round(got) != 3660 {
		t.Errorf("after an hour: %v s", got)
	}
}

func TestRuntimeMetricKeepsLastAnswer(t *testing.T) {
	registry, now := prometheus.NewRegistry(), time.Unix(1000, 0)
	h := &runtimeHealth{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler), warn: func(string) {}}
	registerRuntime(registry, h)
	const name = "spiderpool_container_runtime_last_answer_timestamp_seconds"
	if got := gaugeValue(t, registry, name); got != 0 {
		t.Errorf("before any answer: %v", got)
	}
	h.observe("/run/containerd/containerd.sock", nil)
	now = time.Unix(5000, 0)
	h.observe("", errors.New("silent"))
	if got := gaugeValue(t, registry, name); got != 1000 {
		t.Errorf("got %v, want the time of the last answer, 1000", got)
	}
}
