//go:build kernel

package benchservice

import (
	"fmt"
	"io"

	"spiderpool.dev/spiderpool/test/stats"
)

func median(all []figures) figures {
	of := func(get func(figures) float64) float64 {
		var values []float64
		for _, f := range all {
			values = append(values, get(f))
		}
		return stats.Median(values)
	}
	return figures{
		Gbit:        of(func(f figures) float64 { return f.Gbit }),
		P50:         of(func(f figures) float64 { return f.P50 }),
		Connections: of(func(f figures) float64 { return f.Connections }),
	}
}

// report writes the medians as a table. Ratios are to the backend's own address; the last
// one is to the best mode of kube-proxy.
func report(w io.Writer, all []*result) {
	fmt.Fprint(w, "\n| services | backend | path | TCP Gbit/s | × own | p50 µs | × own | connections/s | × own | × best kube-proxy |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range all {
		var own figures
		best := 0.0
		for _, other := range all {
			switch {
			case other.Services != r.Services || other.Backend != r.Backend:
			case other.Path == pathOwn:
				own = other.Median
			case other.Path != pathEBPF:
				best = max(best, other.Median.Connections)
			}
		}
		m := r.Median
		fmt.Fprintf(w, "| %d | %s | %s | %.2f | %.2f | %.1f | %.2f | %.0f | %.2f | %.2f |\n", r.Services, r.Backend, r.Path,
			m.Gbit, m.Gbit/own.Gbit, m.P50, m.P50/own.P50, m.Connections, m.Connections/own.Connections, m.Connections/best)
	}
	fmt.Fprintf(w, "\nmedians of %d rounds, %g s per figure; %s\n\n", *rounds, *seconds, iptablesVersion())
}
