package controller

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudmetrics"
	"spiderpool.dev/spiderpool/internal/observe"
)

// metrics are the controller's own metrics, besides those of controller-runtime.
// Dashboards depend on the names.
type metrics struct {
	*observe.Reclaims
	clouds *cloudmetrics.Metrics
	reader client.Reader // a cache
	debug  bool          // adds metrics for each pool and subnet
}

var (
	totalPools   = prometheus.NewDesc("spiderpool_total_ippool_counts", "SpiderIPPools.", nil, nil)
	totalSubnets = prometheus.NewDesc("spiderpool_total_subnet_counts", "SpiderSubnets.", nil, nil)

	poolTotal       = prometheus.NewDesc("spiderpool_debug_ippool_total_ip_counts", "Addresses that a SpiderIPPool can hand out.", []string{"SpiderIPPool"}, nil)
	poolAvailable   = prometheus.NewDesc("spiderpool_debug_ippool_available_ip_counts", "Free addresses of a SpiderIPPool.", []string{"SpiderIPPool"}, nil)
	subnetPools     = prometheus.NewDesc("spiderpool_debug_subnet_ippool_counts", "SpiderIPPools of a SpiderSubnet.", []string{"SpiderSubnet"}, nil)
	subnetTotal     = prometheus.NewDesc("spiderpool_debug_subnet_total_ip_counts", "Addresses that a SpiderSubnet can give to pools.", []string{"SpiderSubnet"}, nil)
	subnetAvailable = prometheus.NewDesc("spiderpool_debug_subnet_available_ip_counts", "Addresses of a SpiderSubnet that no pool has.", []string{"SpiderSubnet"}, nil)
)

func newMetrics(reader client.Reader, debug bool) *metrics {
	return &metrics{reader: reader, debug: debug, Reclaims: observe.NewReclaims(), clouds: cloudmetrics.New()}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.Reclaims.Describe(out)
	m.clouds.Describe(out)
	for _, desc := range []*prometheus.Desc{totalPools, totalSubnets, poolTotal, poolAvailable, subnetPools, subnetTotal, subnetAvailable} {
		out <- desc
	}
}

// Collect implements prometheus.Collector. It reads the cache, so a scrape costs no
// request to the API server.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.Reclaims.Collect(out)
	m.clouds.Collect(out)
	var pools v2beta1.SpiderIPPoolList
	var subnets v2beta1.SpiderSubnetList
	for desc, list := range map[*prometheus.Desc]client.ObjectList{totalPools: &pools, totalSubnets: &subnets} {
		if err := m.reader.List(context.Background(), list, client.UnsafeDisableDeepCopy); err != nil {
			out <- prometheus.NewInvalidMetric(desc, err)
			return
		}
	}
	out <- gauge(totalPools, int64(len(pools.Items)))
	out <- gauge(totalSubnets, int64(len(subnets.Items)))
	if !m.debug {
		return
	}
	poolsOf := map[string]int64{} // by subnet
	for i := range pools.Items {
		p := &pools.Items[i]
		poolsOf[p.Labels[names.LabelOwnerSubnet]]++
		total, allocated := ptr.Deref(p.Status.TotalIPCount, 0), ptr.Deref(p.Status.AllocatedIPCount, 0)
		out <- gauge(poolTotal, total, p.Name)
		out <- gauge(poolAvailable, max(total-allocated, 0), p.Name)
	}
	for i := range subnets.Items {
		s := &subnets.Items[i]
		total, allocated := ptr.Deref(s.Status.TotalIPCount, 0), ptr.Deref(s.Status.AllocatedIPCount, 0)
		out <- gauge(subnetPools, poolsOf[s.Name], s.Name)
		out <- gauge(subnetTotal, total, s.Name)
		out <- gauge(subnetAvailable, max(total-allocated, 0), s.Name)
	}
}

func gauge(desc *prometheus.Desc, value int64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}
