package agent

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/journal"
)

// gaugeOf registers a metric with the value of a function.
func gaugeOf(registry *prometheus.Registry, name, help string, value func() float64) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "spiderpool", Name: name, Help: help}, value))
}

// age returns the seconds since a time, and 0 for the zero time.
func age(since, now time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(now.Sub(since).Seconds(), 0)
}

// registerReleases registers the metrics of the releases on disk.
func registerReleases(registry *prometheus.Registry, releases journal.Journal, now func() time.Time) {
	gaugeOf(registry, "ipam_releases_on_disk", "Releases on disk, waiting for the API server.", func() float64 { return float64(releases.Len()) })
	gaugeOf(registry, "ipam_oldest_release_age_seconds", "Age of the oldest release on disk, in seconds; 0 if there is none.",
		func() float64 { return age(releases.Oldest(), now()) })
}

// registerRuntime registers the metrics of the container runtime.
func registerRuntime(registry *prometheus.Registry, runtime *runtimeHealth) {
	gaugeOf(registry, "container_runtime_up", "1 if the container runtime lists its sandboxes, 0 if not: then no address is reclaimed without a DEL.",
		func() float64 {
			if runtime.answers() {
				return 1
			}
			return 0
		})
	gaugeOf(registry, "container_runtime_last_answer_timestamp_seconds",
		"Time of the last answer of the container runtime, in seconds since 1970; 0 if it has never answered.",
		func() float64 {
			last := runtime.lastAnswer()
			if last.IsZero() {
				return 0
			}
			return float64(last.UnixMilli()) / 1000
		})
}

// commits are the metrics of the batches of writes.
type commits struct{ duration, requests prometheus.Histogram }

func newCommits(registry *prometheus.Registry) commits {
	c := commits{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "spiderpool", Subsystem: "ipam", Name: "commit_duration_seconds", Buckets: durations,
			Help: "Duration of writing the SpiderIPBlocks of one batch, in seconds.",
		}),
		requests: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "spiderpool", Subsystem: "ipam", Name: "commit_requests", Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
			Help: "Requests that one batch of writes served.",
		}),
	}
	registry.MustRegister(c.duration, c.requests)
	return c
}

func (c commits) observe(requests int, took time.Duration) {
	c.duration.Observe(took.Seconds())
	c.requests.Observe(float64(requests))
}

// waiting are the requests for addresses without an answer yet.
type waiting struct {
	mu    sync.Mutex
	next  uint64
	began map[uint64]time.Time
}

func newWaiting(registry *prometheus.Registry, now func() time.Time) *waiting {
	w := &waiting{began: map[uint64]time.Time{}}
	gaugeOf(registry, "ipam_oldest_allocation_age_seconds", "Age of the oldest request for addresses without an answer yet, in seconds; 0 if there is none.",
		func() float64 { return age(w.oldest(), now()) })
	return w
}

// enter notes a request that began then. The caller calls leave once with the answer.
func (w *waiting) enter(began time.Time) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := w.next
	w.next++
	w.began[key] = began
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.began, key)
	}
}

func (w *waiting) oldest() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var oldest time.Time
	for _, began := range w.began {
		if oldest.IsZero() || began.Before(oldest) {
			oldest = began
		}
	}
	return oldest
}
