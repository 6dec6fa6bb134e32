package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// product is the measured plugin. floor is the plugin for comparison, from the same
// run.
const (
	product = "spiderpool"
	floor   = "host-local"
)

// target is a limit for one figure of the product.
type target struct {
	about    string
	scenario string
	value    func(r result) float64
	// atMost makes limit an upper bound, otherwise it is a lower one. limit may depend on other results.
	atMost bool
	limit  func(of lookup) (float64, bool)
}

// lookup finds a result of the same run.
type lookup func(plugin, scenario string) (result, bool)

func constant(limit float64) func(lookup) (float64, bool) {
	return func(lookup) (float64, bool) { return limit, true }
}

// times returns a limit: a multiple of a figure of another result.
func times(factor float64, plugin, scenario string, value func(result) float64) func(lookup) (float64, bool) {
	return func(of lookup) (float64, bool) {
		r, ok := of(plugin, scenario)
		return factor * value(r), ok
	}
}

func addPerS(r result) float64    { return r.AddPerS }
func addP50(r result) float64     { return r.AddP50MS }
func pluginCPU(r result) float64  { return r.PluginCPUMS }
func writes(r result) float64     { return r.APIWritesPerPod }
func etcdKB(r result) float64     { return r.EtcdBytesPerPod / 1000 }
func total(r result) float64      { return r.TotalS }
func conflicts(r result) float64  { return r.Conflicts }
func failures(r result) float64   { return float64(r.FailedAttempts) }
func duplicates(r result) float64 { return float64(r.Duplicates) }
func tail(r result) float64       { return r.AddP99MS / r.AddP50MS }
func delToAdd(r result) float64   { return r.DelPerS / r.AddPerS }

// targets are the design's targets. Each is judged if its scenarios ran.
func targets() []target {
	var list []target
	for _, s := range []string{"A", "B", "C"} {
		list = append(list, target{"ADD/s, half of host-local's in C", s, addPerS, false, times(0.5, floor, "C", addPerS)})
	}
	list = append(list, target{"ADD/s, 0.4 of host-local's in C", "D", addPerS, false, times(0.4, floor, "C", addPerS)})
	for _, s := range []string{"A", "B", "C", "D"} {
		list = append(list,
			target{"DEL/s by ADD/s", s, delToAdd, false, constant(1)},
			target{"p99 by p50", s, tail, true, constant(3)},
			target{"KB to etcd a pod", s, etcdKB, true, constant(8)})
	}
	list = append(list,
		target{"API writes a pod", "A", writes, true, constant(1.5)},
		target{"API writes a pod", "B", writes, true, constant(1.5)},
		target{"API writes a pod", "D", writes, true, constant(2)},
		target{"conflicts", "C", conflicts, true, constant(0)},
		target{"p50 ms, twice host-local's", "E", addP50, true, times(2, floor, "E", addP50)},
		target{"seconds, as long as A's DEL and ADD", "F", total, true, times(1, product, "A", total)},
		target{"p50 ms, 1.2 times that without leases", "G", addP50, true, times(1.2, product, "H", addP50)})
	for _, s := range scenarios {
		list = append(list,
			target{"failed attempts", s.name, failures, true, constant(0)},
			target{"duplicates", s.name, duplicates, true, constant(0)},
			target{"plugin CPU ms, host-local's in C", s.name, pluginCPU, true, times(1, floor, "C", pluginCPU)})
	}
	return list
}

// printTargets judges the targets with results and returns the number of missed ones.
func printTargets(w io.Writer, results []result) (missed int) {
	find := func(plugin, scenario string) (result, bool) {
		for _, r := range results {
			if r.Plugin == plugin && r.Scenario == scenario {
				return r, true
			}
		}
		return result{}, false
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\n\ttarget\tseen\twanted\t")
	for _, line := range targets() {
		r, ok := find(product, line.scenario)
		limit, known := line.limit(find)
		if !ok || !known {
			continue
		}
		seen, sign := line.value(r), "≥"
		reached := seen >= limit
		if line.atMost {
			sign, reached = "≤", seen <= limit
		}
		mark := ""
		if !reached {
			mark = "MISSED"
			missed++
		}
		fmt.Fprintf(t, "%s\t%s\t%.2f\t%s %.2f\t%s\n", line.scenario, line.about, seen, sign, limit, mark)
	}
	_ = t.Flush() // writes to a terminal or a file opened by the shell
	return missed
}
