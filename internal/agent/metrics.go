package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/agent/enforcer"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/pool"
)

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
	services   *datapath.Metrics
	policies   *enforcer.Metrics
	*observe.Reclaims
}

// newMetrics returns the metrics. kept returns the number of releases on disk, and answers
// whether the container runtime answers.
func newMetrics(kept func() int, answers func() bool) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), Reclaims: observe.NewReclaims()}
	m.allocation = newOutcomes(m.registry, "allocation", "allocating the addresses of a pod's interface")
	m.release = newOutcomes(m.registry, "release", "releasing the addresses of a pod's interface")
	m.damaged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spiderpool_ipam_damaged_block_counts_total",
		Help: "Reads of corrupt SpiderIPBlocks, whose addresses are out of service.",
	})
	onDisk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spiderpool_ipam_releases_on_disk", Help: "Releases on disk, waiting for the API server.",
	}, func() float64 { return float64(kept()) })
	runtime := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spiderpool_container_runtime_up",
		Help: "1 if the container runtime lists its sandboxes, 0 if not: then no address is reclaimed without a DEL.",
	}, func() float64 {
		if answers() {
			return 1
		}
		return 0
	})
	m.registry.MustRegister(onDisk, runtime, m.damaged, m.Reclaims, collectors.NewGoCollector(),
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
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
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
