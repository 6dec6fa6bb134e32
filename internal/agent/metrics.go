package agent

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// outcomes are the metrics of one operation, allocation or release. Their names
// stand on dashboards.
type outcomes struct {
	total, failures, conflicts          prometheus.Counter
	internal, noPool, exhausted, usedUp prometheus.Counter
	duration                            prometheus.Histogram
}

// metrics are those of an agent.
type metrics struct {
	registry   *prometheus.Registry
	allocation outcomes
	release    outcomes
	damaged    prometheus.Counter
	*observe.Reclaims
}

// newMetrics returns the metrics of an agent that keeps so many releases on disk.
func newMetrics(kept func() int) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), Reclaims: observe.NewReclaims()}
	m.allocation = newOutcomes(m.registry, "allocation", "giving a pod's interface its addresses")
	m.release = newOutcomes(m.registry, "release", "taking back the addresses of a pod's interface")
	m.damaged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spiderpool_ipam_damaged_block_counts",
		Help: "Reads of SpiderIPBlocks that make no sense; none of their addresses is handed out.",
	})
	onDisk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spiderpool_ipam_releases_on_disk", Help: "Releases that wait on disk until the API server takes them.",
	}, func() float64 { return float64(kept()) })
	m.registry.MustRegister(onDisk, m.damaged, m.Reclaims, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
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
		total:     counter("counts", "Requests"),
		failures:  counter("failure_counts", "Failed requests"),
		conflicts: counter("update_ippool_conflict_counts", "Blocks that another writer had changed"),
		internal:  counter("err_internal_counts", "Requests that failed for a reason inside Spiderpool or the API server"),
		noPool:    counter("err_no_available_pool_counts", "Requests that no pool was available for"),
		exhausted: counter("err_retries_exhausted_counts", "Requests that lost to other writers too often"),
		usedUp:    counter("err_ip_used_out_counts", "Requests whose pools had no free address"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "spiderpool", Subsystem: "ipam", Name: operation + "_duration_seconds",
			Help:    "Time taken for " + what + ", in seconds.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	registry.MustRegister(o.duration)
	return o
}

// observe counts one request that took the time and ended in err.
func (o outcomes) observe(took time.Duration, err error) {
	o.total.Inc()
	o.duration.Observe(took.Seconds())
	if err == nil {
		return
	}
	o.failures.Inc()
	var failure *wire.Error
	var noPool *pool.NoPoolError
	var usedUp *lease.ExhaustedError
	switch {
	case errors.As(err, &noPool):
		o.noPool.Inc()
	case errors.As(err, &usedUp):
		o.usedUp.Inc()
	case errors.Is(err, ipam.ErrConflict):
		o.exhausted.Inc()
	case errors.As(err, &failure) && (failure.Code == wire.CodeRefused || failure.Code == wire.CodeInvalidConfig):
		// The request was at fault.
	default:
		o.internal.Inc()
	}
}

// AllocationConflict implements ipam.Observer.
func (m *metrics) AllocationConflict() { m.allocation.conflicts.Inc() }

// ReleaseConflict implements ipam.Observer.
func (m *metrics) ReleaseConflict() { m.release.conflicts.Inc() }

// Damaged implements ipam.Observer.
func (m *metrics) Damaged() { m.damaged.Inc() }
