package observe

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

func connection() flow.Flow {
	return flow.Flow{
		Event: flow.Event{
			Direction: policy.Egress, Protocol: service.TCP, Flags: 2,
			Source: netip.MustParseAddrPort("10.6.0.2:40000"), Destination: netip.MustParseAddrPort("10.6.0.9:80"),
		},
		Opener: &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "front"}, Labels: map[string]string{"app": "front"}, Workload: flow.Workload{Kind: "Deployment", Name: "front"}},
	}
}

// counted returns the counters after some flows, e.g. "hubble_icmp_total{family=IPv4,type=EchoRequest} 1".
func counted(t *testing.T, metrics []string, flows ...flow.Flow) []string {
	t.Helper()
	parsed, err := ParseFlowMetrics(metrics)
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	c := NewFlowCounters(registry, parsed, time.Now)
	for i := range flows {
		c.Count(&flows[i])
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if m.GetCounter().GetValue() > 0 {
				got = append(got, fmt.Sprintf("%s{%s} %v", family.GetName(), strings.Join(labels, ","), m.GetCounter().GetValue()))
			}
		}
	}
	return got
}

func TestFlowsCountAsInHubble(t *testing.T) {
	opened, closed, dropped, ping, ping6 := connection(), connection(), connection(), connection(), connection()
	closed.Kind, closed.Flags, closed.Ended.Received.Packets = flow.Closed, 17, 2
	dropped.Kind, dropped.Reason, dropped.Direction, dropped.Protocol = flow.Denied, flow.ByPolicy, policy.Ingress, service.UDP
	ping.Protocol, ping.ICMPType, ping.Direction = flow.ICMPv4, 8, policy.Ingress
	ping.Source, ping.Destination = netip.AddrPortFrom(ping.Source.Addr(), 0), netip.AddrPortFrom(ping.Destination.Addr(), 0)
	ping6.Protocol, ping6.ICMPType, ping6.ICMPCode = flow.ICMPv6, 130, 1
	ping6.Source, ping6.Destination = netip.MustParseAddrPort("[fd00::1]:0"), netip.MustParseAddrPort("[fd00::2]:0")
	got := counted(t, []string{"flow", "drop", "tcp", "port-distribution", "icmp"}, opened, opened, closed, dropped, ping, ping6)
	want := []string{
		"hubble_drop_total{protocol=UDP,reason=POLICY_DENIED} 1",
		"hubble_flows_processed_total{protocol=ICMPv4,subtype=to-endpoint,type=Trace,verdict=FORWARDED} 1",
		"hubble_flows_processed_total{protocol=ICMPv6,subtype=to-network,type=Trace,verdict=FORWARDED} 1",
		"hubble_flows_processed_total{protocol=TCP,subtype=to-network,type=Trace,verdict=FORWARDED} 3",
		"hubble_flows_processed_total{protocol=UDP,subtype=,type=Drop,verdict=DROPPED} 1",
		"hubble_icmp_total{family=IPv4,type=EchoReply} 1",
		"hubble_icmp_total{family=IPv4,type=EchoRequest} 1",
		"hubble_icmp_total{family=IPv6,type=130(1)} 1",
		"hubble_port_distribution_total{port=0,protocol=ICMPv4} 1",
		"hubble_port_distribution_total{port=0,protocol=ICMPv6} 1",
		"hubble_port_distribution_total{port=80,protocol=TCP} 2",
		"hubble_tcp_flags_total{family=IPv4,flag=FIN} 1",
		"hubble_tcp_flags_total{family=IPv4,flag=SYN-ACK} 1",
		"hubble_tcp_flags_total{family=IPv4,flag=SYN} 2",
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestContextsNameEnds(t *testing.T) {
	for options, want := range map[string]string{
		"sourceContext=pod":                               "source=shop/front",
		"sourceContext=workload":                          "source=shop/front",
		"destinationContext=pod|ip":                       "destination=10.6.0.9",
		"sourceContext=identity":                          "source=k8s:app=front,k8s:io.kubernetes.pod.namespace=shop",
		"destinationContext=reserved-identity":            "destination=reserved:world",
		"sourceContext=namespace;destinationContext=app":  "destination=,port=80,protocol=TCP,source=shop",
		"labelsContext=source_workload_kind,source_app":   "source_app=front,source_workload_kind=Deployment",
		"labelsContext=traffic_direction,destination_pod": "destination_pod=,port=80,protocol=TCP,traffic_direction=egress",
	} {
		t.Run(options, func(t *testing.T) {
			got := counted(t, []string{"port-distribution:" + options}, connection())
			if len(got) != 1 || !strings.Contains(got[0], want) {
				t.Errorf("got %v, want %s", got, want)
			}
		})
	}
}

func TestUnknownMetricsAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"http":                      "write flow, drop, tcp, port-distribution or icmp",
		"drop:sourceContext=x":      `context "x": write one of app, identity`,
		"drop:labelsContext=source": `label "source": write traffic_direction`,
		"drop:exemplars=true":       `"exemplars": write sourceContext`,
	} {
		if _, err := ParseFlowMetrics([]string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := ParseFlowMetrics([]string{"tcp", "tcp:sourceContext=pod"}); err == nil {
		t.Error("a metric may not be there twice")
	}
}

// Whatever pods send, a metric has at most maxSeries time series and one more.
func TestSeriesAreBounded(t *testing.T) {
	registry, now := prometheus.NewRegistry(), time.Now()
	metrics, err := ParseFlowMetrics([]string{"port-distribution"})
	if err != nil {
		t.Fatal(err)
	}
	c := NewFlowCounters(registry, metrics, func() time.Time { return now })
	count := func(from, to int) int {
		for port := from; port < to; port++ {
			f := connection()
			f.Destination = netip.AddrPortFrom(f.Destination.Addr(), uint16(port))
			c.Count(&f)
		}
		return testutil.CollectAndCount(c.metrics[0].vec)
	}
	if got := count(1, 5000); got != maxSeries+1 {
		t.Errorf("%d series, want %d", got, maxSeries+1)
	}
	if got := testutil.ToFloat64(c.metrics[0].vec.WithLabelValues(other, other)); got != 4999-maxSeries {
		t.Errorf("%v others, want %d", got, 4999-maxSeries)
	}
	now = now.Add(2 * staleSeries)
	if got := count(6000, 6010); got != 11 {
		t.Errorf("%d series after an hour, want ten and that of the others", got)
	}
}

// TestSeriesForDashboards compares testdata/flows.txt with the time series of some flows; -update writes it. The tests of
// test/monitoring read the file: every query of Hubble's dashboards about these metrics has a result.
func TestSeriesForDashboards(t *testing.T) {
	const labels = ":labelsContext=source_namespace,destination_namespace;sourceContext=pod|ip;destinationContext=pod|ip"
	var metrics []string
	for _, name := range []string{"flow", "drop", "tcp", "port-distribution", "icmp"} {
		metrics = append(metrics, name+labels)
	}
	var flows []flow.Flow
	for _, addrs := range [][2]string{{"10.6.0.2:40000", "10.6.0.9:80"}, {"[fd00::2]:40000", "[fd00::9]:80"}} {
		opened := connection()
		opened.Source, opened.Destination = netip.MustParseAddrPort(addrs[0]), netip.MustParseAddrPort(addrs[1])
		opened.Target = &flow.End{Pod: lease.PodKey{Namespace: "shop", Name: "web"}}
		closed, denied, ping := opened, opened, opened
		closed.Kind, closed.Flags, closed.Ended.Received.Packets = flow.Closed, 17, 2
		denied.Kind, denied.Reason, denied.Direction = flow.Denied, flow.ByPolicy, policy.Ingress
		ping.Direction, ping.Protocol, ping.ICMPType = policy.Ingress, flow.ICMPv4, 8
		if !opened.Source.Addr().Is4() {
			ping.Protocol, ping.ICMPType = flow.ICMPv6, 128
		}
		flows = append(flows, opened, closed, denied, ping)
	}
	var got strings.Builder
	for _, line := range counted(t, metrics, flows...) {
		name, rest, _ := strings.Cut(line, "{")
		var quoted []string
		for _, pair := range strings.Split(rest[:strings.LastIndex(rest, "}")], ",") {
			key, value, _ := strings.Cut(pair, "=")
			quoted = append(quoted, fmt.Sprintf("%s=%q", key, value))
		}
		fmt.Fprintf(&got, "%s{%s}\n", name, strings.Join(quoted, ","))
	}
	file := filepath.Join("testdata", "flows.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s differs; run go test ./internal/observe -update. Want:\n%s", file, got.String())
	}
}

// BenchmarkCount counts the beginning and the end of a connection at its server, with the default metrics.
func BenchmarkCount(b *testing.B) {
	metrics, err := ParseFlowMetrics([]string{"flow", "drop", "tcp", "port-distribution", "icmp"})
	if err != nil {
		b.Fatal(err)
	}
	c := NewFlowCounters(prometheus.NewRegistry(), metrics, time.Now)
	opened := connection()
	opened.Direction = policy.Ingress
	closed := opened
	closed.Kind, closed.Flags = flow.Closed, 17
	for b.Loop() {
		c.Count(&opened)
		c.Count(&closed)
	}
}
