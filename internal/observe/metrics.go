package observe

import (
	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Reclaims counts reclaimed addresses by reason. The agent reclaims on its own
// node, the controller for lost nodes; dashboards add the two up.
type Reclaims struct {
	total, failures *prometheus.CounterVec
}

// NewReclaims returns counters that start at zero for each reason. A counter that appears
// with its first failure would look unchanged to increase() in PromQL.
func NewReclaims() *Reclaims {
	r := &Reclaims{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spiderpool_ip_gc_counts_total", Help: "Addresses reclaimed without a CNI DEL.",
		}, []string{"reason"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spiderpool_ip_gc_failure_counts_total", Help: "Failed attempts to reclaim addresses without a CNI DEL.",
		}, []string{"reason"}),
	}
	for _, reason := range reclaim.Reasons {
		r.total.WithLabelValues(string(reason))
		r.failures.WithLabelValues(string(reason))
	}
	return r
}

// Reclaimed counts an attempt to reclaim an address; err is nil if it succeeded.
func (r *Reclaims) Reclaimed(reason reclaim.Reason, err error) {
	if err != nil {
		r.failures.WithLabelValues(string(reason)).Inc()
		return
	}
	r.total.WithLabelValues(string(reason)).Inc()
}

// Describe implements prometheus.Collector.
func (r *Reclaims) Describe(out chan<- *prometheus.Desc) {
	r.total.Describe(out)
	r.failures.Describe(out)
}

// Collect implements prometheus.Collector.
func (r *Reclaims) Collect(out chan<- prometheus.Metric) {
	r.total.Collect(out)
	r.failures.Collect(out)
}
