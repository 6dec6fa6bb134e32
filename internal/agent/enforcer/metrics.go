package enforcer

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/policy"
)

// Metrics are the metrics of an Enforcer.
type Metrics struct {
	failures prometheus.Counter
	duration prometheus.Histogram
	lag      prometheus.Histogram
	last     prometheus.Gauge
	// pods and dropped are read from the sandboxes of Watch.
	pods, dropped *prometheus.Desc
	states        func() []State
}

// State is that of one pod.
type State struct {
	lease.PodKey
	// Filtered means that the kernel has a filter. Failing means that it is not the wanted one.
	Filtered, Failing bool
	// Drops are the dropped packets by direction.
	Drops [2]uint64
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spiderpool_policy_failure_counts_total", Help: "Failed attempts to bring the packet filter of a pod into agreement with its policies.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "spiderpool_policy_update_duration_seconds",
			Help:    "Duration of a change of a pod's packet filter in the kernel, in seconds.",
			Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10},
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "spiderpool_policy_sync_lag_seconds",
			Help:    "Time from the arrival of an API server's event to the changed packet filter of a pod, in seconds.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spiderpool_policy_last_change_timestamp_seconds", Help: "Time of the last change of a pod's packet filter, in seconds since 1970; 0 before the first.",
		}),
		pods: prometheus.NewDesc("spiderpool_policy_pods",
			`Pods of this node that policies select: with the filter in the kernel that the policies want (state="enforced"), and with another one or none (state="failing").`,
			[]string{"state"}, nil),
		dropped: prometheus.NewDesc("spiderpool_policy_dropped_packets_total",
			"Packets that a pod's policies dropped, by direction. Only pods of this node that lost packets have a time series, and it ends with the pod.",
			[]string{"pod_namespace", "pod_name", "direction"}, nil),
		states: func() []State { return nil },
	}
	registry.MustRegister(m.failures, m.duration, m.lag, m.last, m)
	return m
}

// Watch sets the source of the metrics about pods.
func (m *Metrics) Watch(states func() []State) { m.states = states }

// applied counts a change. arrived is the time of the event behind it; zero for an ADD.
func (m *Metrics) applied(now, arrived time.Time) {
	m.last.Set(float64(now.UnixNano()) / float64(time.Second))
	if !arrived.IsZero() {
		m.lag.Observe(now.Sub(arrived).Seconds())
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.pods
	out <- m.dropped
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	var enforced, failing float64
	for _, s := range m.states() {
		switch {
		case s.Failing:
			failing++
		case s.Filtered:
			enforced++
		}
		for d, packets := range s.Drops {
			if packets > 0 {
				out <- prometheus.MustNewConstMetric(m.dropped, prometheus.CounterValue, float64(packets), s.Namespace, s.Name, policy.Direction(d).String())
			}
		}
	}
	out <- prometheus.MustNewConstMetric(m.pods, prometheus.GaugeValue, enforced, "enforced")
	out <- prometheus.MustNewConstMetric(m.pods, prometheus.GaugeValue, failing, "failing")
}

// States returns the states of the pods with a filter or a fault.
func (e *Enforcer) States() []State {
	e.init()
	e.mu.Lock()
	all := slices.Collect(maps.Values(e.mu.sandboxes))
	e.mu.Unlock()
	states, ofPair := map[lease.PodKey]*State{}, map[string]*State{}
	for _, s := range all {
		filtered, failing, drops := e.state(s)
		if !filtered && !failing {
			continue
		}
		state := states[s.Pod]
		if state == nil { // a former sandbox of the pod counts, too
			state = &State{PodKey: s.Pod}
			states[s.Pod] = state
		}
		state.Filtered, state.Failing = state.Filtered || filtered, state.Failing || failing
		state.add(drops)
		ofPair[s.pair()] = state
	}
	drops, err := e.node.drops()
	if err != nil {
		e.Log.Warn("cannot read the counters of the node's packet filter", "err", err)
	}
	for _, d := range drops {
		if state := ofPair[d.Link]; state != nil {
			state.add([]packetfilter.Drops{d})
		}
	}
	out := make([]State, 0, len(states))
	for _, state := range states {
		out = append(out, *state)
	}
	return out
}

func (s *State) add(drops []packetfilter.Drops) {
	for _, d := range drops {
		s.Drops[d.Direction] += d.Packets
	}
}

func (e *Enforcer) state(s *sandbox) (filtered, failing bool, drops []packetfilter.Drops) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.filter == nil {
		return false, s.mu.fault != "", nil
	}
	drops, err := s.mu.filter.Drops()
	if err != nil {
		e.Log.Warn("cannot read the counters of a pod's packet filter", "pod", s.Pod.String(), "err", err)
	}
	return true, s.mu.fault != "", drops
}
