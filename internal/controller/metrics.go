package controller

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/observe"
)

// metrics are the controller's own, beside those of controller-runtime. The
// names are in use on dashboards.
type metrics struct {
	*observe.Reclaims
	reader client.Reader // a cache
	debug  bool          // adds what grows with the number of pools
}

var (
	totalPools   = prometheus.NewDesc("spiderpool_total_ippool_counts", "SpiderIPPools.", nil, nil)
	totalSubnets = prometheus.NewDesc("spiderpool_total_subnet_counts", "SpiderSubnets.", nil, nil)

	poolTotal       = prometheus.NewDesc("spiderpool_debug_ippool_total_ip_counts", "Addresses that a SpiderIPPool may hand out.", []string{"ippool"}, nil)
	poolAvailable   = prometheus.NewDesc("spiderpool_debug_ippool_available_ip_counts", "Addresses that a SpiderIPPool has left.", []string{"ippool"}, nil)
	subnetPools     = prometheus.NewDesc("spiderpool_debug_subnet_ippool_counts", "SpiderIPPools with addresses of a SpiderSubnet.", []string{"subnet"}, nil)
	subnetTotal     = prometheus.NewDesc("spiderpool_debug_subnet_total_ip_counts", "Addresses that a SpiderSubnet may give to pools.", []string{"subnet"}, nil)
	subnetAvailable = prometheus.NewDesc("spiderpool_debug_subnet_available_ip_counts", "Addresses that a SpiderSubnet has left.", []string{"subnet"}, nil)
)

func newMetrics(reader client.Reader, debug bool) *metrics {
	return &metrics{reader: reader, debug: debug, Reclaims: observe.NewReclaims()}
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.Reclaims.Describe(out)
	for _, desc := range []*prometheus.Desc{totalPools, totalSubnets, poolTotal, poolAvailable, subnetPools, subnetTotal, subnetAvailable} {
		out <- desc
	}
}

// Collect is of prometheus.Collector. It reads the cache, so a scrape costs the
// API server nothing.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.Reclaims.Collect(out)
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
	cut := map[string]int64{}
	for i := range pools.Items {
		p := &pools.Items[i]
		cut[p.Labels[v2beta1.LabelOwnerSubnet]]++
		total, allocated := ptr.Deref(p.Status.TotalIPCount, 0), ptr.Deref(p.Status.AllocatedIPCount, 0)
		out <- gauge(poolTotal, total, p.Name)
		out <- gauge(poolAvailable, max(total-allocated, 0), p.Name)
	}
	for i := range subnets.Items {
		s := &subnets.Items[i]
		total, allocated := ptr.Deref(s.Status.TotalIPCount, 0), ptr.Deref(s.Status.AllocatedIPCount, 0)
		out <- gauge(subnetPools, cut[s.Name], s.Name)
		out <- gauge(subnetTotal, total, s.Name)
		out <- gauge(subnetAvailable, max(total-allocated, 0), s.Name)
	}
}

func gauge(desc *prometheus.Desc, value int64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}
