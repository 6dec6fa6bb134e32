package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestIperf3ReportIsRead(t *testing.T) {
	t.Parallel()
	const report = `{"start": {"connected": []}, "end": {
		"sum_sent": {"bits_per_second": 24500000000, "retransmits": 3},
		"sum_received": {"bits_per_second": 24000000000}}}`
	if got, err := throughput(report); err != nil || got != 24 {
		t.Errorf("%g Gbit/s, %v; want 24", got, err)
	}
	for report, want := range map[string]string{
		`{"start": {}, "error": "unable to connect to server: Connection refused"}`: "Connection refused",
		`{"start": {}, "end": {}}`: "received nothing",
		``:                         "report",
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := throughput(report); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want an error with %q", err, want)
			}
		})
	}
}

func TestMedianIsTakenPerNumber(t *testing.T) {
	t.Parallel()
	got := median([]figures{
		{GbitPerS: 1, TCP: latency{PerS: 30, P50US: 6, P99US: 9}, UDP: latency{PerS: 1, P50US: 2, P99US: 3}},
		{GbitPerS: 3, TCP: latency{PerS: 10, P50US: 5, P99US: 7}, UDP: latency{PerS: 1, P50US: 2, P99US: 3}},
		{GbitPerS: 2, TCP: latency{PerS: 20, P50US: 4, P99US: 8}, UDP: latency{PerS: 1, P50US: 2, P99US: 3}},
	})
	want := figures{GbitPerS: 2, TCP: latency{PerS: 20, P50US: 5, P99US: 8}, UDP: latency{PerS: 1, P50US: 2, P99US: 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("median (-want +got):\n%s", diff)
	}
}

func TestLabsCompareWithOwnHostNetwork(t *testing.T) {
	t.Parallel()
	figure := func(n float64) figures {
		return figures{GbitPerS: n, TCP: latency{P50US: n}, UDP: latency{P50US: n}}
	}
	var out strings.Builder
	printTable(&out, []result{
		{Topology: "l2", Network: "host", Median: figure(10)}, {Topology: "l2", Network: "bridge", Median: figure(8)},
		{Topology: "aws", Network: "host", Median: figure(4)}, {Topology: "aws", Network: "bridge", Median: figure(3)},
	})
	for ratio, want := range map[string]int{"1.00": 6, "0.80": 3, "0.75": 3} {
		if got := strings.Count(out.String(), "| "+ratio+" |"); got != want {
			t.Errorf("%d times %s, want %d:\n%s", got, ratio, want, &out)
		}
	}
}

func TestBridgeServerIsBehindItsNode(t *testing.T) {
	t.Parallel()
	pod := func(name, node, podIP, hostIP string) corev1.Pod {
		p := corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{PodIP: podIP, HostIP: hostIP}}
		p.Name = name
		return p
	}
	both := []corev1.Pod{pod("b", "worker1", "10.244.0.2", "10.6.0.11"), pod("a", "master", "10.244.0.3", "10.6.0.10")}
	for name, want := range map[string]network{
		"bridge":  {client: "a", address: "10.6.0.11", iperfPort: 30201, pingPort: 30202},
		"macvlan": {client: "a", address: "10.244.0.2", iperfPort: 5201, pingPort: 5202},
	} {
		t.Run(name, func(t *testing.T) {
			got := network{Name: name}
			if err := got.place(slices.Clone(both)); err != nil {
				t.Fatal(err)
			}
			want.Name = name
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(network{})); diff != "" {
				t.Errorf("place (-want +got):\n%s", diff)
			}
		})
	}
	if err := new(network).place(both[:1]); err == nil {
		t.Error("place accepted a single pod")
	}
}

func TestKernelIsReadFromTheStatus(t *testing.T) {
	t.Parallel()
	if got, err := kernelIn("Kernel     6.16.3 (uml); of the control plane 6.18.5\n"); err != nil || got != "6.16.3 (uml)" {
		t.Errorf("%q, %v; want 6.16.3 (uml)", got, err)
	}
	if _, err := kernelIn("Kernel\n"); err == nil {
		t.Error("no error without a kernel")
	}
}
