// Package cloudmetrics measures the calls of a cloud.Provider.
package cloudmetrics

import (
	"context"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// Metrics counts the calls of all providers of a process. It is a prometheus.Collector.
type Metrics struct {
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// succeeded is the label result of a call without an error. With an error, it is the kind.
const succeeded = "Success"

// New returns metrics without a provider.
func New() *Metrics {
	return &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spiderpool_cloud_call_counts_total",
			Help: `Calls of a cloud by method and result: "Success", or the kind of the error, e.g. "Throttled".`,
		}, []string{"provider", "method", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "spiderpool_cloud_call_duration_seconds", Help: "Duration of calls of a cloud, with the wait for the own rate limit, in seconds.",
			Buckets: []float64{.05, .1, .2, .4, .8, 1.6, 3.2, 6.4, 12.8, 25.6},
		}, []string{"provider", "method"}),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	m.calls.Describe(out)
	m.duration.Describe(out)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.calls.Collect(out)
	m.duration.Collect(out)
}

// Measure returns a provider that calls p and counts the calls. The name is the label
// provider, e.g. "aws".
func (m *Metrics) Measure(name string, p cloud.Provider) cloud.Provider {
	return measured{p, name, m}
}

type measured struct {
	cloud.Provider
	name    string
	metrics *Metrics
}

// observe counts a finished call. Use it with defer, and a pointer to the named result.
func (m measured) observe(method string, start time.Time, err *error) {
	result := succeeded
	if *err != nil {
		result = string(cloud.KindOf(*err))
	}
	m.metrics.calls.WithLabelValues(m.name, method, result).Inc()
	m.metrics.duration.WithLabelValues(m.name, method).Observe(time.Since(start).Seconds())
}

func (m measured) Instances(ctx context.Context, ids []string) (found []cloud.Instance, err error) {
	defer m.observe("Instances", time.Now(), &err)
	return m.Provider.Instances(ctx, ids)
}

func (m measured) Interfaces(ctx context.Context, q cloud.Query) (found []cloud.Interface, err error) {
	defer m.observe("Interfaces", time.Now(), &err)
	return m.Provider.Interfaces(ctx, q)
}

func (m measured) Subnets(ctx context.Context, ids []string, tags map[string]string) (found []cloud.Subnet, err error) {
	defer m.observe("Subnets", time.Now(), &err)
	return m.Provider.Subnets(ctx, ids, tags)
}

func (m measured) Limits(ctx context.Context, types []string) (limits map[string]cloud.Limits, err error) {
	defer m.observe("Limits", time.Now(), &err)
	return m.Provider.Limits(ctx, types)
}

func (m measured) Assign(ctx context.Context, a cloud.Assignment) (pieces []netip.Prefix, err error) {
	defer m.observe("Assign", time.Now(), &err)
	return m.Provider.Assign(ctx, a)
}

func (m measured) Unassign(ctx context.Context, iface string, pieces []netip.Prefix) (err error) {
	defer m.observe("Unassign", time.Now(), &err)
	return m.Provider.Unassign(ctx, iface, pieces)
}

func (m measured) Create(ctx context.Context, n cloud.NewInterface) (made cloud.Interface, err error) {
	defer m.observe("Create", time.Now(), &err)
	return m.Provider.Create(ctx, n)
}

func (m measured) Attach(ctx context.Context, iface, instance string, device int) (err error) {
	defer m.observe("Attach", time.Now(), &err)
	return m.Provider.Attach(ctx, iface, instance, device)
}

func (m measured) Detach(ctx context.Context, iface string) (err error) {
	defer m.observe("Detach", time.Now(), &err)
	return m.Provider.Detach(ctx, iface)
}

func (m measured) Delete(ctx context.Context, iface string) (err error) {
	defer m.observe("Delete", time.Now(), &err)
	return m.Provider.Delete(ctx, iface)
}
