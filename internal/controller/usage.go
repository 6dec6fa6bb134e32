package controller

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

var (
	poolAddresses = prometheus.NewDesc("spiderpool_pool_addresses",
		"Addresses that a SpiderIPPool can hand out. The 1000 fullest pools have time series, the others share pool=\"(other)\".", []string{"pool", "node"}, nil)
	poolFree = prometheus.NewDesc("spiderpool_pool_free_addresses",
		"Addresses of a SpiderIPPool that are neither in use nor retained. node is the one node of the pool, or empty.", []string{"pool", "node"}, nil)
	leases = prometheus.NewDesc("spiderpool_leases", "Leases of a SpiderIPPool by state: InUse, Retained, Quarantined, Withheld or Released.",
		[]string{"pool", "state"}, nil)
	conditions = prometheus.NewDesc("spiderpool_object_conditions", "Objects with a condition, e.g. kind=\"SpiderIPPool\", type=\"Ready\", status=\"False\".",
		[]string{"kind", "type", "status", "reason"}, nil)
	blockedLeases = prometheus.NewDesc("spiderpool_ip_gc_blocked_addresses",
		"Addresses in use whose pods have been gone for ten minutes, because nothing proves the end of their sandboxes.", nil, nil)
)

const (
	// poolSeries limits the pools with time series of their own. A cloud has one pool for
	// each interface of a node, so there may be many thousands.
	poolSeries = 1000
	// otherPools is the label of all further pools, and of leases whose pool is gone. No
	// SpiderIPPool can have this name, because names of objects have no parentheses.
	otherPools = "(other)"
)

// usage is the use of one pool, or of all pools without time series of their own.
type usage struct {
	name, node  string
	total, free int64
	leases      map[v2beta1.LeaseState]int64
}

// freeShare returns the share of free addresses, 0 for a full pool and 1 for an unused one. It
// is a float64, because the product of two counts of IPv6 addresses does not fit into an
// int64. A pool without addresses has an infinite share: it cannot become full.
func (u *usage) freeShare() float64 {
	if u.total <= 0 {
		return math.Inf(1)
	}
	return float64(u.free) / float64(u.total)
}

// saturated returns a+b for numbers that are not negative, at most math.MaxInt64.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// byPool returns the use of the fullest pools, and of all others together. Among equally full
// pools, those of several nodes come first, because a cloud may have thousands of full pools
// of one node.
func (s *snapshot) byPool(limit int) []*usage {
	var all []*usage
	for i := range s.pools.Items {
		p := &s.pools.Items[i]
		u := &usage{name: p.Name, total: ptr.Deref(p.Status.TotalIPCount, 0), free: ptr.Deref(p.Status.FreeIPCount, 0), leases: map[v2beta1.LeaseState]int64{}}
		if len(p.Spec.NodeName) == 1 {
			u.node = p.Spec.NodeName[0]
		}
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *usage) int {
		return cmp.Or(cmp.Compare(a.freeShare(), b.freeShare()), cmp.Compare(a.node, b.node), cmp.Compare(a.name, b.name))
	})
	other := &usage{name: otherPools, leases: map[v2beta1.LeaseState]int64{}}
	shown := map[string]*usage{}
	for i, u := range all {
		if i < limit {
			shown[u.name] = u
			continue
		}
		other.total, other.free = saturated(other.total, u.total), saturated(other.free, u.free)
	}
	for i := range s.blocks.Items {
		for j := range s.blocks.Items[i].Spec.Leases {
			l := &s.blocks.Items[i].Spec.Leases[j]
			u, ok := shown[l.Pool]
			if !ok {
				u = other
			}
			u.leases[l.State]++
		}
	}
	return append(all[:min(limit, len(all))], other)
}

func (s *snapshot) collectPools(out chan<- prometheus.Metric) {
	for _, u := range s.byPool(poolSeries) {
		if u.name != otherPools || u.total > 0 {
			out <- gauge(poolAddresses, u.total, u.name, u.node)
			out <- gauge(poolFree, u.free, u.name, u.node)
		}
		for state, count := range u.leases {
			out <- gauge(leases, count, u.name, string(state))
		}
	}
}

// condition identifies a time series of conditions.
type condition struct{ kind, of, status, reason string }

func (s *snapshot) collectConditions(out chan<- prometheus.Metric) {
	count := map[condition]int64{}
	add := func(kind string, of []metav1.Condition) {
		for _, c := range of {
			count[condition{kind, c.Type, string(c.Status), c.Reason}]++
		}
	}
	for i := range s.pools.Items {
		add("SpiderIPPool", s.pools.Items[i].Status.Conditions)
	}
	for i := range s.subnets.Items {
		add("SpiderSubnet", s.subnets.Items[i].Status.Conditions)
	}
	for i := range s.reserved.Items {
		add("SpiderReservedIP", s.reserved.Items[i].Status.Conditions)
	}
	for i := range s.attachments.Items {
		add("SpiderMultusConfig", s.attachments.Items[i].Status.Conditions)
	}
	for i := range s.coordinators.Items {
		add("SpiderCoordinator", s.coordinators.Items[i].Status.Conditions)
	}
	for i := range s.clouds.Items {
		add("SpiderCloudNetwork", s.clouds.Items[i].Status.Conditions)
	}
	for c, n := range count {
		out <- gauge(conditions, n, c.kind, c.of, c.status, c.reason)
	}
}

// orphan is a lease in use whose pod does not exist.
type orphan struct{ ip, containerID string }

// orphans returns the leases in use whose pods do not exist or have another UID.
func (s *snapshot) orphans() map[orphan]bool {
	found := map[orphan]bool{}
	for i := range s.blocks.Items {
		for j := range s.blocks.Items[i].Spec.Leases {
			l := &s.blocks.Items[i].Spec.Leases[j]
			if uid, ok := s.uids[l.Pod]; l.State == v2beta1.LeaseInUse && (!ok || uid != l.PodUID) {
				found[orphan{l.IP, l.ContainerID}] = true
			}
		}
	}
	return found
}

// blockedAfter is how long the pod of an address is gone before the address counts as
// blocked. A DEL, or an agent's next look at its runtime, takes minutes.
const blockedAfter = 10 * time.Minute

// orphans remembers since when the leases of one scrape have been without their pods.
type orphans struct {
	now func() time.Time

	mu    sync.Mutex
	since map[orphan]time.Time
}

// blocked returns the number of leases that have been orphans for blockedAfter.
func (o *orphans) blocked(current map[orphan]bool) (count int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, since := o.now(), make(map[orphan]time.Time, len(current))
	for key := range current {
		first, ok := o.since[key]
		if !ok {
			first = now
		}
		since[key] = first
		if now.Sub(first) >= blockedAfter {
			count++
		}
	}
	o.since = since
	return count
}
