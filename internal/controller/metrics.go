package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud/cloudmetrics"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/observe"
)

// metrics are the controller's own metrics, besides those of controller-runtime.
// Dashboards depend on the names.
type metrics struct {
	*observe.Reclaims
	clouds  *cloudmetrics.Metrics
	process []prometheus.Collector
	reader  client.Reader // a cache
	debug   bool          // adds metrics for each pool and subnet
	orphans *orphans
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

// newMetrics returns the metrics. certificate is that of the webhooks.
func newMetrics(reader client.Reader, debug bool, certificate getCertificate) *metrics {
	return &metrics{
		Reclaims: observe.NewReclaims(), clouds: cloudmetrics.New(), reader: reader, debug: debug, orphans: &orphans{now: time.Now},
		process: []prometheus.Collector{observe.NewBuildInfo(config.Version), observe.NewCertificateExpiry("webhooks", certificate)},
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.Reclaims.Describe(out)
	m.clouds.Describe(out)
	for _, c := range m.process {
		c.Describe(out)
	}
	for _, desc := range []*prometheus.Desc{
		totalPools, totalSubnets, poolTotal, poolAvailable, subnetPools, subnetTotal, subnetAvailable,
		poolAddresses, poolFree, leases, conditions, blockedLeases,
	} {
		out <- desc
	}
}

// Collect implements prometheus.Collector. It reads the cache, so a scrape costs no
// request to the API server.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.Reclaims.Collect(out)
	m.clouds.Collect(out)
	for _, c := range m.process {
		c.Collect(out)
	}
	s, err := readSnapshot(context.Background(), m.reader)
	if err != nil {
		out <- prometheus.NewInvalidMetric(totalPools, err)
		return
	}
	out <- gauge(totalPools, int64(len(s.pools.Items)))
	out <- gauge(totalSubnets, int64(len(s.subnets.Items)))
	s.collectPools(out)
	s.collectConditions(out)
	out <- gauge(blockedLeases, m.orphans.blocked(s.orphans()))
	if m.debug {
		s.collectDebug(out)
	}
}

// snapshot has what the caches know at a scrape. Its objects belong to the caches.
type snapshot struct {
	pools        v2beta1.SpiderIPPoolList
	subnets      v2beta1.SpiderSubnetList
	reserved     v2beta1.SpiderReservedIPList
	attachments  v2beta1.SpiderMultusConfigList
	coordinators v2beta1.SpiderCoordinatorList
	clouds       v2beta1.SpiderCloudNetworkList
	blocks       v2beta1.SpiderIPBlockList
	uids         map[string]string // of pods, by namespace/name; see compile.PodUID
}

func readSnapshot(ctx context.Context, reader client.Reader) (*snapshot, error) {
	s := &snapshot{uids: map[string]string{}}
	for _, list := range []client.ObjectList{&s.pools, &s.subnets, &s.reserved, &s.attachments, &s.coordinators, &s.clouds, &s.blocks} {
		if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("read the cache for metrics: %w", err)
		}
	}
	err := cached.Each(ctx, reader, &corev1.PodList{}, func(pod *corev1.Pod) {
		s.uids[pod.Namespace+"/"+pod.Name] = compile.PodUID(pod.UID, pod.Annotations)
	})
	if err != nil {
		return nil, fmt.Errorf("read the cache for metrics: %w", err)
	}
	return s, nil
}

// collectDebug writes the metrics with the names and labels of Spiderpool 1.2.
func (s *snapshot) collectDebug(out chan<- prometheus.Metric) {
	poolsOf := map[string]int64{} // by subnet
	for i := range s.pools.Items {
		p := &s.pools.Items[i]
		poolsOf[p.Labels[names.LabelOwnerSubnet]]++
		total, allocated := ptr.Deref(p.Status.TotalIPCount, 0), ptr.Deref(p.Status.AllocatedIPCount, 0)
		out <- gauge(poolTotal, total, p.Name)
		out <- gauge(poolAvailable, max(total-allocated, 0), p.Name)
	}
	for i := range s.subnets.Items {
		subnet := &s.subnets.Items[i]
		total, allocated := ptr.Deref(subnet.Status.TotalIPCount, 0), ptr.Deref(subnet.Status.AllocatedIPCount, 0)
		out <- gauge(subnetPools, poolsOf[subnet.Name], subnet.Name)
		out <- gauge(subnetTotal, total, subnet.Name)
		out <- gauge(subnetAvailable, max(total-allocated, 0), subnet.Name)
	}
}

func gauge(desc *prometheus.Desc, value int64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), labels...)
}
