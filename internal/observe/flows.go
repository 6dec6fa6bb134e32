package observe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

const (
	// maxSeries is the number of time series of one metric about flows. Further ones count as other.
	maxSeries = 1000
	other     = "other"
	// staleSeries is the time without a flow after which a full metric drops a series, e.g. that of a former pod.
	staleSeries = time.Hour
)

// flowMetric is a metric of Hubble (https://docs.cilium.io/en/stable/observability/metrics/).
type flowMetric struct {
	name, help string
	labels     []string
	// values calls inc with the values of the labels, if the flow counts.
	values func(f *flow.Flow, inc increment)
	// zero are the series that exist from the start: dashboards subtract them from others.
	zero []fixed
}

// fixed are the values of the labels of a metric, in their order. An array is a key without an allocation.
type fixed [4]string

// increment counts a packet of a flow. The ends of an answer are the other way round, as in Hubble.
type increment func(values fixed, isAnswer bool)

// flowMetrics are the metrics by their names in the configuration, which are those in Hubble's.
var flowMetrics = map[string]flowMetric{
	"flow": {"flows_processed_total", "Flows of this node's pods: connections that opened, ended or were dropped.",
		[]string{"protocol", "type", "subtype", "verdict"}, func(f *flow.Flow, inc increment) {
			switch {
			case f.Kind == flow.Denied:
				inc(fixed{protocolOf(f), "Drop", "", "DROPPED"}, false)
			case f.Direction == policy.Egress:
				inc(fixed{protocolOf(f), "Trace", "to-network", "FORWARDED"}, false)
			default:
				inc(fixed{protocolOf(f), "Trace", "to-endpoint", "FORWARDED"}, false)
			}
		}, nil},
	"drop": {"drop_total", "Dropped packets.",
		[]string{"reason", "protocol"}, func(f *flow.Flow, inc increment) {
			if f.Kind == flow.Denied {
				inc(fixed{f.Reason.Hubble(), protocolOf(f)}, false)
			}
		}, []fixed{{flow.ByPolicy.Hubble(), "TCP"}, {flow.ByPolicy.Hubble(), "UDP"}}},
	"tcp": {"tcp_flags_total", "TCP flags of the first and the last packets of connections.",
		[]string{"flag", "family"}, countFlags,
		[]fixed{{"SYN", "IPv4"}, {"SYN", "IPv6"}, {"SYN-ACK", "IPv4"}, {"SYN-ACK", "IPv6"}}},
	"port-distribution": {"port_distribution_total", "Connections by destination port.",
		[]string{"protocol", "port"}, func(f *flow.Flow, inc increment) {
			if f.Kind == flow.Opened {
				inc(fixed{protocolOf(f), strconv.Itoa(int(f.Destination.Port()))}, false)
			}
		}, nil},
	"icmp": {"icmp_total", "ICMP messages that began a flow, and the answers to echo requests.",
		[]string{"family", "type"}, countICMP,
		[]fixed{{"IPv4", "EchoRequest"}, {"IPv6", "EchoRequest"}, {"IPv4", "EchoReply"}, {"IPv6", "EchoReply"}}},
}

// isAnswered reports whether an event says that the other end answered: an incoming flow opens with the pod's answer, and an
// outgoing one tells at its end.
func isAnswered(f *flow.Flow) bool {
	if f.Direction == policy.Ingress {
		return f.Kind == flow.Opened
	}
	return f.Kind == flow.Closed && f.Ended.Received.Packets > 0
}

func countICMP(f *flow.Flow, inc increment) {
	if f.Protocol != flow.ICMPv4 && f.Protocol != flow.ICMPv6 {
		return
	}
	kind := icmpOf(f)
	if f.Kind != flow.Closed {
		inc(fixed{familyOf(f), kind}, false)
	}
	if kind == "EchoRequest" && isAnswered(f) {
		inc(fixed{familyOf(f), "EchoReply"}, true)
	}
}

func countFlags(f *flow.Flow, inc increment) {
	if f.Protocol != service.TCP || f.Kind == flow.Denied {
		return
	}
	for _, flag := range []struct {
		bit  flow.TCPFlags
		name string
	}{{1, "FIN"}, {2, "SYN"}, {4, "RST"}} {
		if f.Flags&flag.bit != 0 {
			inc(fixed{flag.name, familyOf(f)}, false)
		}
	}
	if isAnswered(f) {
		inc(fixed{"SYN-ACK", familyOf(f)}, true)
	}
}

// protocolOf returns the protocol as Hubble's metrics name it, e.g. "TCP" or "ICMPv4".
func protocolOf(f *flow.Flow) string {
	switch f.Protocol {
	case flow.ICMPv4:
		return "ICMPv4"
	case flow.ICMPv6:
		return "ICMPv6"
	}
	return f.Protocol.String()
}

func familyOf(f *flow.Flow) string {
	if f.Source.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// icmpOf returns the type of a message, e.g. "EchoRequest", or its number with the code, e.g. "13(0)".
func icmpOf(f *flow.Flow) string {
	names := map[uint8]string{0: "EchoReply", 3: "DestinationUnreachable", 8: "EchoRequest", 11: "TimeExceeded"}
	if f.Protocol == flow.ICMPv6 {
		names = map[uint8]string{1: "DestinationUnreachable", 2: "PacketTooBig", 3: "TimeExceeded", 128: "EchoRequest", 129: "EchoReply"}
	}
	if name, ok := names[f.ICMPType]; ok {
		return name
	}
	return fmt.Sprintf("%d(%d)", f.ICMPType, f.ICMPCode)
}

// FlowMetric is a metric about flows with its additional labels.
type FlowMetric struct {
	kind string
	// labels are further labels, and values their values for a flow.
	labels []string
	values []func(*flow.Flow) string
}

// ParseFlowMetrics parses the names of metrics with options as in Hubble's configuration, e.g. "icmp" or
// "drop:sourceContext=namespace;destinationContext=namespace|ip;labelsContext=source_app,traffic_direction".
func ParseFlowMetrics(texts []string) (all []FlowMetric, err error) {
	for _, text := range texts {
		kind, options, _ := strings.Cut(text, ":")
		if _, ok := flowMetrics[kind]; !ok {
			return nil, fmt.Errorf("%q: write flow, drop, tcp, port-distribution or icmp, optionally with labels, e.g. drop:sourceContext=namespace", text)
		}
		if slices.ContainsFunc(all, func(m FlowMetric) bool { return m.kind == kind }) {
			return nil, fmt.Errorf("%q: the metric %s is there twice; join their options with semicolons", text, kind)
		}
		m := FlowMetric{kind: kind}
		for _, option := range strings.FieldsFunc(options, func(r rune) bool { return r == ';' }) {
			if err := m.add(option); err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
		}
		all = append(all, m)
	}
	return all, nil
}

// add adds the labels of an option.
func (m *FlowMetric) add(option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "sourceContext", "destinationContext":
		of, err := contextOf(value, name == "sourceContext")
		if err != nil {
			return err
		}
		m.labels, m.values = append(m.labels, strings.TrimSuffix(name, "Context")), append(m.values, of)
	case "labelsContext":
		for _, label := range strings.Split(value, ",") {
			of, err := labelOf(label)
			if err != nil {
				return err
			}
			m.labels, m.values = append(m.labels, label), append(m.values, of)
		}
	default:
		return fmt.Errorf("%q: write sourceContext, destinationContext or labelsContext", name)
	}
	return nil
}

// FlowCounters count flows.
type FlowCounters struct {
	metrics []*boundedCounter
	lost    prometheus.Counter
	now     func() time.Time
}

// NewFlowCounters registers the metrics.
func NewFlowCounters(registry prometheus.Registerer, metrics []FlowMetric, now func() time.Time) *FlowCounters {
	c := &FlowCounters{now: now, lost: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hubble_lost_events_total", Help: "Events that were lost because a buffer was full.", ConstLabels: prometheus.Labels{"source": "perf_event_ring_buffer"},
	})}
	registry.MustRegister(c.lost)
	for _, m := range metrics {
		kind := flowMetrics[m.kind]
		vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hubble_" + kind.name, Help: kind.help}, slices.Concat(kind.labels, m.labels))
		registry.MustRegister(vec)
		c.metrics = append(c.metrics, &boundedCounter{FlowMetric: m, kind: kind, vec: vec, series: map[seriesKey]*series{}})
		for _, values := range kind.zero {
			if len(m.labels) == 0 {
				vec.WithLabelValues(values[:len(kind.labels)]...)
			}
		}
	}
	return c
}

// NeedEnds reports whether a metric has labels of the ends of flows.
func (c *FlowCounters) NeedEnds() bool {
	return slices.ContainsFunc(c.metrics, func(m *boundedCounter) bool { return len(m.labels) > 0 })
}

// Lost counts lost events.
func (c *FlowCounters) Lost(events uint64) { c.lost.Add(float64(events)) }

// Count counts a flow.
func (c *FlowCounters) Count(f *flow.Flow) {
	now := c.now()
	for _, m := range c.metrics {
		m.kind.values(f, func(values fixed, isAnswer bool) {
			m.inc(seriesKey{values, m.more(f, isAnswer)}, now)
		})
	}
}

// reversed returns a flow with the ends of its answers.
func reversed(f *flow.Flow) *flow.Flow {
	answer := *f
	answer.Source, answer.Destination = f.Destination, f.Source
	answer.Opener, answer.Target = f.Target, f.Opener
	return &answer
}

// boundedCounter is a metric with at most maxSeries time series, and one for the others.
type boundedCounter struct {
	FlowMetric
	kind flowMetric
	vec  *prometheus.CounterVec

	mu     sync.Mutex
	series map[seriesKey]*series
}

// seriesKey are the values of all labels.
type seriesKey struct {
	fixed
	more string // those of FlowMetric.labels, joined
}

// separator is in no value of a label.
const separator = "\x00"

type series struct {
	prometheus.Counter
	values []string
	last   time.Time
}

// more returns the values of the further labels of a metric, joined.
func (b *boundedCounter) more(f *flow.Flow, isAnswer bool) string {
	if len(b.values) == 0 {
		return ""
	}
	if isAnswer {
		f = reversed(f)
	}
	values := make([]string, len(b.values))
	for i, of := range b.values {
		values[i] = of(f)
	}
	return strings.Join(values, separator)
}

func (b *boundedCounter) inc(key seriesKey, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.series[key]
	if s == nil && len(b.series) >= maxSeries {
		b.dropStale(now)
	}
	if s == nil && len(b.series) >= maxSeries {
		b.vec.WithLabelValues(slices.Repeat([]string{other}, len(b.kind.labels)+len(b.labels))...).Inc()
		return
	}
	if s == nil {
		values := slices.Clone(key.fixed[:len(b.kind.labels)])
		if len(b.labels) > 0 {
			values = append(values, strings.Split(key.more, separator)...)
		}
		s = &series{Counter: b.vec.WithLabelValues(values...), values: values}
		b.series[key] = s
	}
	s.last = now
	s.Inc()
}

func (b *boundedCounter) dropStale(now time.Time) {
	for key, s := range b.series {
		if now.Sub(s.last) > staleSeries {
			b.vec.DeleteLabelValues(s.values...)
			delete(b.series, key)
		}
	}
}
