package main

import (
	"fmt"
	"io"

	"spiderpool.dev/spiderpool/test/stats"
)

// result is one row of the report and one object in bench-net.json.
type result struct {
	Topology string    `json:"topology"`
	Kernel   string    `json:"kernel"`
	Network  string    `json:"network"`
	Median   figures   `json:"median"`
	Rounds   []figures `json:"rounds"`
}

// figures are the results of one measurement. Requests are small and sent one at a time.
type figures struct {
	GbitPerS float64 `json:"gbit_per_s"`
	TCP      latency `json:"tcp"`
	UDP      latency `json:"udp"`
}

// latency is the JSON output of pingpong.
type latency struct {
	PerS  float64 `json:"per_s"`
	P50US float64 `json:"p50_us"`
	P99US float64 `json:"p99_us"`
}

// fields returns the numbers in figures; each has its own median.
var fields = []func(*figures) *float64{
	func(f *figures) *float64 { return &f.GbitPerS },
	func(f *figures) *float64 { return &f.TCP.PerS },
	func(f *figures) *float64 { return &f.TCP.P50US },
	func(f *figures) *float64 { return &f.TCP.P99US },
	func(f *figures) *float64 { return &f.UDP.PerS },
	func(f *figures) *float64 { return &f.UDP.P50US },
	func(f *figures) *float64 { return &f.UDP.P99US },
}

// median takes the median of every number separately.
func median(rounds []figures) figures {
	var out figures
	for _, field := range fields {
		var values []float64
		for i := range rounds {
			values = append(values, *field(&rounds[i]))
		}
		*field(&out) = stats.Median(values)
	}
	return out
}

func (f figures) summary() string {
	return fmt.Sprintf("%5.2f Gbit/s  TCP p50 %.1f µs, p99 %.1f µs  UDP p50 %.1f µs, p99 %.1f µs", f.GbitPerS, f.TCP.P50US, f.TCP.P99US, f.UDP.P50US, f.UDP.P99US)
}

// printTable writes the table as Markdown. The first network of each lab must be the host network.
func printTable(w io.Writer, results []result) {
	fmt.Fprintln(w, "| lab | kernel | network | TCP Gbit/s | × host | TCP p50 µs | × host | p99 | requests/s | UDP p50 µs | × host | p99 | requests/s |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	var host figures
	for _, r := range results {
		m := r.Median
		if r.Network == "host" {
			host = m
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.2f | %.2f | %.1f | %.2f | %.1f | %.0f | %.1f | %.2f | %.1f | %.0f |\n", r.Topology, r.Kernel, r.Network,
			m.GbitPerS, m.GbitPerS/host.GbitPerS,
			m.TCP.P50US, m.TCP.P50US/host.TCP.P50US, m.TCP.P99US, m.TCP.PerS,
			m.UDP.P50US, m.UDP.P50US/host.UDP.P50US, m.UDP.P99US, m.UDP.PerS)
	}
}
