package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/agent/enforcer"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/pool"
)

// durations are the buckets of the histograms of durations, in seconds.
var durations = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// outcomes are the metrics of one operation, allocation or release. Dashboards use
// their names, so do not change them.
type outcomes struct {
	total, failures, conflicts          prometheus.Counter
	internal, noPool, exhausted, usedUp prometheus.Counter
	duration                            prometheus.Histogram
}

// metrics are all metrics of an agent. They implement ipam.Observer and
// alloc.Observer.
type metrics struct {
	registry   *prometheus.Registry
	allocation outcomes
	release    outcomes
	damaged    prometheus.Counter
	conflicts  prometheus.Counter
	commits    commits
	waiting    *waiting
	services   *datapath.Metrics
	policies   *enforcer.Metrics
	*observe.Reclaims
}

// newMetrics returns the metrics, among them those about the releases on disk and the
// container runtime.
func newMetrics(releases journal.Journal, runtime *runtimeHealth) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), Reclaims: observe.NewReclaims()}
	m.commits, m.waiting = newCommits(m.registry), newWaiting(m.registry, time.Now)
	m.allocation = newOutcomes(m.registry, "allocation", "allocating the addresses of a pod's interface")
	m.release = newOutcomes(m.registry, "release", "releasing the addresses of a pod's interface")
	m.damaged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spiderpool_ipam_damaged_block_counts_total",
		Help: "Reads of corrupt SpiderIPBlocks, whose addresses are out of service.",
	})
	m.conflicts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spiderpool_ipam_address_conflicts_total", Help: "New addresses of pods for which another host answered.",
	})
	registerReleases(m.registry, releases, time.Now)
	registerRuntime(m.registry, runtime)
	m.registry.MustRegister(m.damaged, m.conflicts, m.Reclaims, observe.NewBuildInfo(config.Version), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.services, m.policies = datapath.NewMetrics(m.registry), enforcer.NewMetrics(m.registry)
	return m
}

func newOutcomes(registry *prometheus.Registry, operation, what string) outcomes {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "spiderpool", Subsystem: "ipam", Name: operation + "_" + name, Help: help + " while " + what + ".",
		})
		registry.MustRegister(c)
		return c
	}
	o := outcomes{
		total:     counter("counts_total", "Requests"),
		failures:  counter("failure_counts_total", "Failed requests"),
		conflicts: counter("update_ippool_conflict_counts_total", "Write conflicts on blocks"),
		internal:  counter("err_internal_counts_total", "Requests that failed because of Spiderpool or the API server"),
		noPool:    counter("err_no_available_pool_counts_total", "Requests without an available pool"),
		exhausted: counter("err_retries_exhausted_counts_total", "Requests that gave up after too many write conflicts"),
		usedUp:    counter("err_ip_used_out_counts_total", "Requests whose pools had no free address"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "spiderpool", Subsystem: "ipam", Name: operation + "_duration_seconds",
			Help:    "Duration of " + what + ", in seconds.",
			Buckets: durations,
		}),
	}
	registry.MustRegister(o.duration)
	return o
}

// observe counts one request with its duration and error.
func (o outcomes) observe(took time.Duration, err error) {
	o.total.Inc()
	o.duration.Observe(took.Seconds())
	if err == nil {
		return
	}
	o.failures.Inc()
	var failure *ipam.Error
	var noPool *pool.NoPoolError
	var usedUp *lease.ExhaustedError
	switch {
	case errors.As(err, &noPool):
		o.noPool.Inc()
	case errors.As(err, &usedUp):
		o.usedUp.Inc()
	case errors.Is(err, alloc.ErrConflict):
		o.exhausted.Inc()
	case errors.As(err, &failure) && (failure.Kind == ipam.Refused || failure.Kind == ipam.Invalid):
		// An invalid request is not our failure.
	default:
		o.internal.Inc()
	}
}

// AllocationConflict implements alloc.Observer.
func (m *metrics) AllocationConflict() { m.allocation.conflicts.Inc() }

// ReleaseConflict implements alloc.Observer.
func (m *metrics) ReleaseConflict() { m.release.conflicts.Inc() }

// Damaged implements alloc.Observer.
func (m *metrics) Damaged() { m.damaged.Inc() }

// Committed implements alloc.Observer.
func (m *metrics) Committed(requests int, took time.Duration) { m.commits.observe(requests, took) }
